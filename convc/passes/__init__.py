"""The passes: each turns one graph into a better one and states its contract."""
