"""Settings that all tests share."""

from hypothesis import settings

# The same examples on every run, and no verdict that depends on a clock.
settings.register_profile("convc", derandomize=True, deadline=None, database=None)
settings.load_profile("convc")
