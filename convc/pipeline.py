"""The pipelines, as literal lists of passes, and the steps they compile."""

import os
from dataclasses import dataclass

from convc.backends import backend_named
from convc.backends.base import Backend
from convc.dump import dumped
from convc.engines import targeted
from convc.ir.errors import CompileError
from convc.ir.graph import Graph
from convc.lockfile import tuned
from convc.optimizers import Optimizer
from convc.passes.canonicalize import CANONICALIZE
from convc.passes.choose_precision import KEEP_SUMS, choose_precision
from convc.passes.commute_relu import COMMUTE_RELU
from convc.passes.differentiate import apply_optimizer, differentiating
from convc.passes.fold_batch_norm import FOLD_BATCH_NORM
from convc.passes.fold_padding import FOLD_PADDING
from convc.passes.fuse_conv import FUSE_CONV, FUSE_CONV_BACKWARD
from convc.passes.fuse_dense import FUSE_DENSE, FUSE_DENSE_BACKWARD
from convc.passes.fuse_dropout import FUSE_DROPOUT
from convc.passes.fuse_loss import FUSE_LOSS
from convc.passes.fuse_optimizer import FUSE_OPTIMIZER
from convc.passes.fuse_weights import FUSE_WEIGHTS
from convc.passes.inference import EVALUATE_ONLY
from convc.passes.layout import CHOOSE_LAYOUT
from convc.passes.lower import FORM_KERNELS
from convc.passes.manager import Context, Pass, Stage, Trail, run_passes
from convc.passes.plan_memory import PLAN_MEMORY
from convc.passes.recompute import RECOMPUTE
from convc.passes.schedule import CHOOSE_DIRECT, CHOOSE_SCHEDULE
from convc.program import Program

LOWERING = (
    FUSE_CONV,
    FUSE_CONV_BACKWARD,
    FUSE_DENSE_BACKWARD,  # before fuse-dense, which takes any product
    FUSE_DENSE,
    FUSE_LOSS,
    FUSE_OPTIMIZER,
    FUSE_WEIGHTS,
    FUSE_DROPOUT,  # after the fusions that take in apply_mask, which reads the mask
    FORM_KERNELS,  # after all fusions: what is left stands alone
    CHOOSE_LAYOUT,  # on kernels: an input is copied at most once, not per op
    CHOOSE_SCHEDULE,  # after the layout, which decides what a tile is
    RECOMPUTE,  # after the schedules, whose scratch decides where the peak is
    PLAN_MEMORY,  # last: schedules say how much scratch a kernel needs
)
EXACT_LOWERING = tuple(CHOOSE_DIRECT if p is CHOOSE_SCHEDULE else p for p in LOWERING)


def inference(precision: str = "fp32", exact: bool = False) -> tuple[Pass, ...]:
    """The passes of an evaluation or of the network alone."""
    return (
        EVALUATE_ONLY,
        CANONICALIZE,
        FOLD_PADDING,
        FOLD_BATCH_NORM,  # after remove-dropout, which makes its statistics parameters
        COMMUTE_RELU,
        choose_precision(precision),  # after fold-batch-norm, so that weights are f32
        *(EXACT_LOWERING if exact else LOWERING),
    )


INFERENCE = inference()


def training(
    optimizer: Optimizer,
    keep_gradients: bool = False,
    precision: str = "fp32",
    loss_scale: float = 1.0,
    exact: bool = False,
) -> tuple[Pass, ...]:
    """The passes of a training step."""
    return (
        CANONICALIZE,
        FOLD_PADDING,  # before commute-relu: a pad stands between ReLU and pool
        COMMUTE_RELU,  # before differentiate, so that the gradients commute too
        choose_precision(precision),  # before differentiate, for the gradients too
        differentiating(loss_scale),
        KEEP_SUMS,  # before what else reads the gradients
        apply_optimizer(optimizer, keep_gradients),
        Pass("simplify", CANONICALIZE.rewrite),  # what differentiation left over
        *(EXACT_LOWERING if exact else LOWERING),
    )


@dataclass(frozen=True)
class Step:
    """A graph and the passes that make a program of it; ``kind`` is for people."""

    graph: Graph
    passes: tuple[Pass, ...]
    kind: str = "program"

    def traced(self) -> Graph:
        """The graph that PyTorch and others are given: no dropout but in training."""
        if self.kind == "training":
            return self.graph
        context = Context(backend_named("numpy"), 1, 1)
        return run_passes(self.graph, (EVALUATE_ONLY,), context)[-1].graph

    def context(self, target: Backend, batch: int, threads: int | None) -> Context:
        """How a target's programs use the machine.

        A single image is too little to share: one worker runs its kernels, and the BLAS
        library has all threads for each product. CompileError as ``stages``.
        """
        if batch < 1:
            raise CompileError(f"a batch has at least 1 image, got {batch}")
        workers = default_threads(target) if threads is None else threads
        if workers < 1:
            raise CompileError(f"a program needs at least 1 thread, got {workers}")
        if batch == 1 and target.threaded and self.kind in ("evaluation", "inference"):
            return Context(target, batch, 1, blas=workers)
        return Context(target, batch, workers)

    def stages(
        self,
        backend: str = "numpy",
        batch: int = 128,
        threads: int | None = None,
        check: bool = False,
        trail: Trail | None = None,
    ) -> list[Stage]:
        """The program after each pass, the traced one first.

        ``check`` runs old and new graphs on small data after every pass. CompileError
        as ``run_passes`` raises it, or for a batch or thread count below 1. Schedules
        come from the lockfile in force, see ``lockfile.tuned``.
        """
        context = self.context(backend_named(backend), batch, threads)
        context.tuned = tuned()
        return run_passes(self.graph, self.passes, context, check, trail)

    def compile(
        self,
        backend: str = "numpy",
        batch: int = 128,
        threads: int | None = None,
        check: bool = False,
        device: str | None = None,
    ) -> Program:
        """A program that runs 1 … ``batch`` images at a time.

        ``device`` as ``Program`` takes it; one that cannot be used is refused first.
        Where CONVC_DUMP names a folder, what was made is left there, see ``dump``.
        """
        if device is not None:
            backend = targeted(backend, device)
        with dumped(f"{self.graph.name}-{self.kind}") as record:
            stages = self.stages(backend, batch, threads, check, record.trail)
            program = Program(tuple(stages), backend_named(backend), device)
            record.source = program.source
        return program


def default_threads(backend: Backend) -> int:
    """The cores this process may use; 1 where kernels run on a device of their own."""
    if not backend.threaded:
        return 1
    return (
        len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else (os.cpu_count() or 1)
    )
