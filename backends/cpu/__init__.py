"""The NumPy backend: emits NumPy source for the CPU."""
