"""Finding out whether a compiled program is right, and what is wrong if it is not."""
