"""One page that shows a compiled program: its stages, code, memory and speed."""
