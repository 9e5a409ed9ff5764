"""The Triton backend: a planned graph as one file of GPU kernels."""
