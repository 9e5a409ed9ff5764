"""From a loss to a training step: gradients, then the optimizer's updates."""

from collections.abc import Sequence
from functools import cache

from convc.autodiff import add_gradients
from convc.ir.builder import GraphBuilder
from convc.ir.errors import CompileError
from convc.ir.graph import Graph, Value
from convc.ir.types import DType, TensorType
from convc.optimizers import Optimizer
from convc.passes.gradient_check import GRADIENT, check_gradients
from convc.passes.manager import Context, Pass
from convc.passes.optimizer_check import check_updates
from convc.tracing import STEP


def differentiate(graph: Graph, context: Context, scale: float = 1.0) -> Graph:
    """Add an output ``gradient/<parameter>`` of ``loss`` for each trainable one.

    What is differentiated is ``scale`` times the loss, and the gradients are divided by
    it in the end: on the way small numbers are as much larger.
    """
    loss = dict(graph.outputs).get("loss")
    if loss is None:
        raise CompileError("a training step needs an output called loss")
    b = GraphBuilder(graph.name, graph)
    trainable = [p for p in graph.parameters if p.trainable]
    if scale != 1:
        b.locs = next((n.locs for n in graph.nodes if loss in n.results), ())
        loss = b("multiply", loss, b.constant(scale, loss.type))
    gradients = add_gradients(b, loss, [p.value for p in trainable])
    for parameter, gradient in zip(trainable, gradients, strict=True):
        if gradient is None:
            raise CompileError(
                f"the loss does not depend on {parameter.value}; leave it out of the "
                "model or declare it with trainable=False"
                + (f" at {parameter.locs[0]}" if parameter.locs else "")
            )
        if scale != 1:
            b.locs = parameter.locs
            gradient = b("multiply", gradient, b.constant(1 / scale, gradient.type))
        b.output(GRADIENT + parameter.value.name, gradient)
    return b.finish()


@cache
def differentiating(scale: float) -> Pass:
    """The pass that differentiates ``scale`` times the loss."""

    def rewrite(graph: Graph, context: Context) -> Graph:
        return differentiate(graph, context, scale)

    return Pass("differentiate", rewrite, check=check_gradients)


def apply_optimizer(optimizer: Optimizer, keep_gradients: bool = False) -> Pass:
    """The pass that turns gradients into updates of parameters and step counter."""

    def rewrite(graph: Graph, context: Context) -> Graph:
        b = GraphBuilder(graph.name, graph)
        pairs = _pairs(graph)
        if not keep_gradients:
            b.outputs = [o for o in b.outputs if not o[0].startswith(GRADIENT)]
        step = next((p.value for p in graph.parameters if p.value.name == STEP), None)
        scalar = TensorType(DType.I64, ())
        if step is None:
            step = b.parameter(STEP, scalar, "zeros", trainable=False)
        optimizer.apply(b, pairs, step)
        b.update(step, b("add", step, b.constant(1, scalar)))
        return b.finish()

    return Pass("apply-optimizer", rewrite, check=check_updates(optimizer))


def _pairs(graph: Graph) -> Sequence[tuple[Value, Value]]:
    gradients = dict(graph.outputs)
    trainable = [p.value for p in graph.parameters if p.trainable]
    for value in trainable:
        if GRADIENT + value.name not in gradients:
            raise CompileError(
                f"there is no output {GRADIENT}{value.name}; run differentiate first"
            )
    return [(value, gradients[GRADIENT + value.name]) for value in trainable]


DIFFERENTIATE = differentiating(1.0)
