"""The torch backend: a graph as PyTorch calls, to compare with."""
