"""One loop over all parameters laid end to end, and the step counter after it."""

from convc.backends.base import OPTIMIZERS, SLOTS
from convc.backends.gpu.affine import Condition, Symbol
from convc.backends.gpu.kernel import Kernel
from convc.backends.gpu.scope import ratio, root
from convc.backends.gpu.tile import Tile
from convc.ir.graph import Node, Value
from convc.ir.ops import OPS
from convc.ir.ops.base import number
from convc.ir.types import DType


def updates(kernel: Kernel) -> list[Node]:
    """The updates in a kernel, all of one kind."""
    return [n for n in kernel.ops if n.op in OPTIMIZERS]


def total(kernel: Kernel) -> int:
    """The elements of all parameters."""
    return sum(n.operands[0].type.elements(1) for n in updates(kernel))


def counters(kernel: Kernel) -> list[Node]:
    """The other nodes: step counters that go up."""
    return [n for n in kernel.ops if n.op not in (*OPTIMIZERS, "multiply")]


def unscaling(kernel: Kernel) -> Node | None:
    """The division of the first gradient by the loss scale, like that of all others."""
    return kernel.find("multiply")


def block_places(kernel: Kernel) -> dict[str, str]:
    """The first value of each block by its slot: p, g, m, v."""
    first, scaled = updates(kernel)[0], unscaling(kernel)
    names = OPS[first.op].operands
    found = {}
    for slot, value in zip(names, first.operands, strict=True):
        if slot in SLOTS:
            held = scaled.operands[0] if scaled and slot == "g" else value
            outer = kernel.outer(held)
            assert outer is not None
            found[slot] = outer.name
    return found


def write_optimizer(
    t: Tile, kernel: Kernel, pid: Symbol, block: int, programs: int
) -> None:
    """What one program does with its block of all parameters."""
    node, size = updates(kernel)[0], total(kernel)
    kind = node.operands[0].type.dtype
    attrs = node.attrs
    scalars = {
        slot: t.value(value, ())
        for slot, value in zip(OPS[node.op].operands, node.operands, strict=True)
        if slot not in SLOTS
    }
    index = t.symbol(
        "index", size, f"{t.use(pid)} * {block} + tl.arange(0, {block})", (0,)
    )
    if size % block:
        reads = (index,)
        index.conditions = (
            Condition(f"{index.name} < {size}", frozenset((0,)), reads),
        )
    at = t.use(index)
    mask = f", mask={t.both(index.conditions)}" if index.conditions else ""
    other = ", other=0.0" if mask else ""
    pointers = {}
    for slot in block_places(kernel):
        pointers[slot] = t.pointer(f"{kernel.node.name}!{slot}")
        t.line(f"{slot} = tl.load({pointers[slot]} + {at}{mask}{other})")
    scaled = unscaling(kernel)
    if scaled:
        t.line(f"g = g * {t.value(scaled.operands[1], ())}")
    decay = number(attrs["weight_decay"])
    lr = scalars["lr"]
    if decay and attrs.get("decoupled"):
        t.line(f"p = p - {lr} * {decay!r} * p")
    elif decay:
        t.line(f"g = g + {decay!r} * p")
    if node.op == "sgd":
        t.line(f"p = p - {lr} * g")
    elif node.op == "momentum":
        mu = number(attrs["momentum"])
        t.line(f"v = {mu!r} * v + g")
        step = f"g + {mu!r} * v" if attrs["nesterov"] else "v"
        t.line(f"p = p - {lr} * ({step})" if "+" in step else f"p = p - {lr} * {step}")
    else:
        _write_adam(t, node, scalars, kind)
    for slot in (s for s in pointers if s != "g"):
        t.line(f"tl.store({pointers[slot]} + {at}, {slot}{mask})")
    _write_counters(t, kernel, programs)


def _write_adam(t: Tile, node: Node, scalars: dict[str, str], kind: DType) -> None:
    beta1, beta2, epsilon = (
        number(node.attrs[k]) for k in ("beta1", "beta2", "epsilon")
    )
    name = "tl.float64" if kind is DType.F64 else "tl.float32"
    t.line(f"steps = ({scalars['step']} + 1).to(tl.float64)")
    for slot, beta in (("m", beta1), ("v", beta2)):
        if beta:
            text = f"1.0 - tl.exp(steps * tl.log(tl.full((), {beta!r}, tl.float64)))"
        else:
            text = "tl.full((), 1.0, tl.float64)"
        t.line(f"correction_{slot} = ({text}).to({name})")
    t.line(f"m = {beta1!r} * m + {1 - beta1!r} * g")
    t.line(f"v = {beta2!r} * v + {1 - beta2!r} * g * g")
    t.line(f"m_hat = {ratio('m', 'correction_m', kind)}")
    t.line(f"v_hat = {ratio('v', 'correction_v', kind)}")
    deviation = f"{root('v_hat', kind)} + {epsilon!r}"
    step = ratio(f"{scalars['lr']} * m_hat", deviation, kind)
    t.line(f"p = p - {step}")


def _write_counters(t: Tile, kernel: Kernel, programs: int) -> None:
    """The last program to come here counts, when all have read the old count."""
    found = counters(kernel)
    if not found:
        return
    values: list[tuple[Value, str]] = []
    for node in found:
        outer = kernel.outer(node.result)
        if outer is None:
            raise kernel.refusal(f"{node.op} beside the updates gives no result")
        values.append((outer, t.value(node.result, ())))
    if programs == 1:
        for outer, text in values:
            t.store(outer, outer.name, [], text)
        return
    arrived = t.pointer("!arrived")
    with t.inside(
        f"if tl.atomic_add({arrived}, 1) == {programs - 1}:  # all have read"
    ):
        for outer, text in values:
            t.store(outer, outer.name, [], text)
        t.line(f"tl.store({arrived}, 0)")
