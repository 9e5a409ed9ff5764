"""Short programs; the networks of some of them are built in by their names."""
