"""convc's own programs, as they are run in training: inputs filled, outputs copied."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from convc.engines import family, targeted
from convc.ir.ops.base import Array
from convc.rivals.base import Runner

PROCESSES = "numpy:processes"
"""The numpy backend with a process in place of each thread."""


class Ours(Runner):
    """A backend that compiles: numpy, numpy:processes or triton."""

    packages = ("numpy", "threadpoolctl")

    def prepare(self) -> Callable[[Array], Any]:
        """The program; a step fills its inputs and copies its outputs."""
        device = "cpu:processes" if self.name == PROCESSES else None
        backend = targeted("numpy" if device else self.name)
        threads = self.task.threads if family(backend) == "numpy" else None
        program = self.model_step.compile(
            backend, self.task.batch, threads, device=device
        )
        training, inputs = self.task.kind == "training", self.inputs
        (shown,) = [k for k, _ in program.graph.outputs if k in ("loss", "output")]

        def call(labels: Array) -> Any:
            for name, array in inputs.items():
                program.input(name)[...] = array
            if training:
                program.input("labels")[...] = labels
            return program.run()[shown]

        return call
