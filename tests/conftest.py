"""Settings that all tests share."""

import os
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

# Triton reads it when it is imported: emitted kernels run in its interpreter here, if
# no GPU is asked for.
if not os.environ.get("CONVC_TEST_DEVICE", "").startswith("cuda"):
    os.environ["TRITON_INTERPRET"] = "1"
collect_ignore = [] if sys.platform == "linux" else ["backends/gpu", "helpers"]

# The same examples on every run, and no verdict that depends on a clock.
settings.register_profile("convc", derandomize=True, deadline=None, database=None)
settings.load_profile("convc")


@pytest.fixture(autouse=True)
def _no_user_module_outlives_its_test() -> Iterator[None]:
    """Files of networks that a test has loaded are unknown to the next one.

    Which tests share a process, and in which order they run, is by chance.
    """
    path = list(sys.path)
    yield
    sys.path[:] = path
    for name in [name for name in sys.modules if name.startswith("network_")]:
        del sys.modules[name]
