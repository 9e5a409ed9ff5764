"""Programs of the Triton backend where CONVC_TEST_DEVICE says, else under watch.

Unset, every launch runs in the interpreter with its memory watched (``triton_bench``).
On a GPU, and as a plain run where the variable says ``interpret``, nothing can watch
the kernels; all that a step may not rely on holds NaN before it, and their numbers are
compared all the same.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from compiled import poison

from convc.backends import backend_named
from convc.engines import targeted
from convc.ir.graph import Graph
from convc.passes.manager import Pass
from convc.pipeline import LOWERING, Step
from convc.program import Program

DEVICE = os.environ.get("CONVC_TEST_DEVICE", "")


@contextmanager
def numbers_of(device: str) -> Iterator[None]:
    """In the interpreter bfloat16 and TF32 as on a GPU; a GPU has its own.

    Then there is no reason to refuse bfloat16 there, as programs do otherwise.
    """
    if device != "interpret":
        yield
        return
    from triton_numbers import gpu_numbers

    with gpu_numbers(), patch("convc.engines._refuse_bf16"):
        yield


class OnDevice:
    """A graph compiled for a device: data in, a run on poisoned memory, data out."""

    def __init__(
        self, graph: Graph, batch: int, target: str, passes: Sequence[Pass]
    ) -> None:
        name = f"triton:{target}" if DEVICE == "interpret" else "triton"
        backend = targeted(name, DEVICE)
        self.stages = Step(graph, tuple(passes)).stages(backend, batch, threads=1)
        with numbers_of(DEVICE):
            self._program = Program(tuple(self.stages), backend_named(backend), DEVICE)
        self.graph, self.source = self._program.graph, self._program.source

    def load(self, arrays: Mapping[str, Any]) -> None:
        """Set the parameters the program has."""
        self._program.load(arrays)

    def state(self) -> dict[str, Any]:
        """Copies of all parameters by name."""
        return self._program.state()

    def __call__(self, **inputs: Any) -> dict[str, Any]:
        """Outputs of a step on as many images as the inputs have."""
        with numbers_of(DEVICE):
            poison(self._program)
            return self._program(**inputs)


def emitted(
    graph: Graph,
    batch: int,
    target: str = "interpret",
    passes: Sequence[Pass] = LOWERING,
) -> Any:
    """The graph as a program: ``load``, ``state``, a call; ``graph``, ``source``.

    ``target`` is whose tiles the interpreter runs; a GPU has its own.
    """
    if DEVICE:
        return OnDevice(graph, batch, target, passes)
    from triton_bench import Checked

    return Checked(graph, batch, target, passes)
