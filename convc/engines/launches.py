"""The launches of an emitted Triton program, each as a call without arguments."""

from functools import partial
from typing import Any

from convc.engines.device import Call, Device


def launches(emitted: Any, module: dict[str, Any], device: Device) -> list[Call]:
    """One call for each entry of the emitted LAUNCHES, on the program's own memory."""
    del device
    return [partial(emitted.launch, at) for at in range(len(module["LAUNCHES"]))]
