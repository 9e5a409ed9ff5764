"""Settings that all tests share."""

import os
import sys

from hypothesis import settings

# Triton reads it when it is imported: emitted kernels run in its interpreter here, if
# no GPU is asked for.
if not os.environ.get("CONVC_TEST_DEVICE", "").startswith("cuda"):
    os.environ["TRITON_INTERPRET"] = "1"
collect_ignore = [] if sys.platform == "linux" else ["backends/gpu", "helpers"]

# The same examples on every run, and no verdict that depends on a clock.
settings.register_profile("convc", derandomize=True, deadline=None, database=None)
settings.load_profile("convc")
