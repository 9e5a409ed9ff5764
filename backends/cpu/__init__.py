"""The NumPy backend: batch-innermost arrays, tiles in cache, a team of threads."""
