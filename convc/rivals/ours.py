"""convc's own programs, as they are run in training: inputs filled, outputs copied."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from convc.engines import family, targeted
from convc.ir.ops.base import Array
from convc.rivals.base import Runner


class Ours(Runner):
    """A backend that compiles: numpy or triton."""

    packages = ("numpy", "threadpoolctl")

    def prepare(self) -> Callable[[Array], Any]:
        """The program; a step fills its inputs and copies its outputs."""
        backend = targeted(self.name)
        threads = self.task.threads if family(backend) == "numpy" else None
        program = self.model_step.compile(backend, self.task.batch, threads)
        training, inputs = self.task.kind == "training", self.inputs
        (shown,) = [k for k, _ in program.graph.outputs if k in ("loss", "output")]

        def call(labels: Array) -> Any:
            for name, array in inputs.items():
                program.input(name)[...] = array
            if training:
                program.input("labels")[...] = labels
            return program.run()[shown]

        return call
