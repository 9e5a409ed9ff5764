"""Which sections a kernel's body falls into: one for each sum, one for the rest.

An anchor is an op that sums: a product or a reduction. What follows it is computed on
its tile; what precedes it, where its operands are read. Anchors that do not depend on
each other stand side by side in one launch.
"""

from dataclasses import dataclass, replace

from convc.backends.base import OPTIMIZERS
from convc.backends.gpu import optimizer, reduction, rows
from convc.backends.gpu.affine import Index, Symbol
from convc.backends.gpu.contraction import (
    Contraction,
    Coords,
    axis_condition,
    digits_of,
    size_of,
    write_pooled,
    write_product,
)
from convc.backends.gpu.conv import (
    axes_of,
    filter_gradient,
    forward,
    input_gradient,
    product,
)
from convc.backends.gpu.halo import Halo, halo_of, write_copy, write_halo_product
from convc.backends.gpu.kernel import Kernel
from convc.backends.gpu.pointwise import RULES
from convc.backends.gpu.scope import computed
from convc.backends.gpu.section import Launch, Section, function_name, power, tiles
from convc.backends.gpu.tile import Tile
from convc.ir.graph import Node, Value
from convc.ir.ops.base import ints
from convc.ir.types import DType, TensorType

PRODUCTS = ("conv2d", "conv2d_input_grad", "conv2d_filter_grad", "matmul")
REDUCTIONS = ("reduce_sum", "reduce_mean", "reduce_variance")


@dataclass(frozen=True)
class Part:
    """An anchor, or none, with the results of the kernel that follow from it."""

    anchor: Node | None
    yields: tuple[Value, ...]


def is_optimizer(kernel: Kernel) -> bool:
    """Whether a kernel updates parameters in one loop."""
    return any(n.op in OPTIMIZERS for n in kernel.ops)


def is_rows(kernel: Kernel) -> bool:
    """Whether a kernel needs whole rows."""
    return bool(rows.anchors(kernel))


def parts_of(kernel: Kernel) -> list[Part]:
    """The kernel's results by the anchor they follow from.

    CompileError where a result follows from two anchors, or one anchor from another.
    """
    above: dict[str, set[str]] = {v.name: set() for v in kernel.region.inputs}
    anchors: dict[str, Node] = {}
    for node in kernel.region.nodes:
        behind = set().union(*(above[v.name] for v in node.operands))
        if node.op in (*PRODUCTS, *REDUCTIONS):
            if behind:
                raise kernel.refusal(f"{node.op} follows {anchors[min(behind)].op}")
            behind = {node.name}
            anchors[node.name] = node
        elif node.op not in RULES:
            raise kernel.refusal(f"there is no rule for {node.op}")
        for value in node.results:
            above[value.name] = behind
    found: dict[tuple[str, ...], list[Value]] = {}
    for value in kernel.region.yields:
        behind = above[value.name]
        if len(behind) > 1:
            both = " and ".join(anchors[name].op for name in sorted(behind))
            raise kernel.refusal(f"a result follows from {both}")
        key = tuple(behind) or ("", str(value.type.shape))
        found.setdefault(key, []).append(value)
    return [Part(anchors.get(k[0]), tuple(v)) for k, v in found.items()]


def pool_of(kernel: Kernel, part: Part) -> Node | None:
    """The max-pool after a convolution."""
    if part.anchor is None or part.anchor.op != "conv2d":
        return None
    found = kernel.find("max_pool2d") or kernel.find("max_pool2d_argmax")
    if found is not None:
        down, right = ints(found.attrs["window"]), ints(found.attrs["strides"])
        sizes = [a.out for a in axes_of(part.anchor)]
        even = all(s % w == 0 for s, w in zip(sizes, down, strict=True))
        if down != right or (not even and found.attrs["padding"] == "same"):
            raise kernel.refusal("its windows do not tile the convolution's result")
    return found


def contraction(kernel: Kernel, part: Part, taps: int) -> Contraction:
    """How a part's product is summed."""
    node = part.anchor
    assert node is not None
    if node.result.type.dtype is DType.F64:
        raise kernel.refusal("products are computed in float32 at most")
    if node.op == "conv2d":
        return forward(kernel, node, pool_of(kernel, part), taps)
    if node.op == "conv2d_input_grad":
        return input_gradient(kernel, node, taps)
    if node.op == "conv2d_filter_grad":
        return filter_gradient(kernel, node)
    return product(kernel, node)


def launches(kernel: Kernel) -> list[Launch]:
    """The launches of a scheduled kernel, one or two."""
    name = function_name(kernel)
    warps, stages = kernel.integer("warps"), kernel.integer("stages")
    if is_optimizer(kernel):
        block = kernel.integer("block")
        programs = tiles(optimizer.total(kernel), block)

        def update(t: Tile, pid: Symbol) -> None:
            optimizer.write_optimizer(t, kernel, pid, block, programs)

        return [Launch(name, (Section(name, programs, update),), warps, stages)]
    if is_rows(kernel):
        return [_rows_launch(kernel, name, warps, stages)]
    before, first, after = list[Section](), list[Section](), list[Section]()
    for part in parts_of(kernel):
        node = part.anchor
        if node is None:
            first.append(_flat(kernel, part))
        elif node.op not in PRODUCTS:
            first.append(_reduction(kernel, part))
        elif (halo := scheduled_halo(kernel, node)) is not None:
            before += [] if halo.bare else [_halo_copy(kernel, halo)]
            first.append(_halo_product(kernel, part, halo))
        else:
            first.append(_product(kernel, part))
        if node is not None and split_of(kernel, node) > 1:
            after.append(_finish(kernel, part, split_of(kernel, node)))
    found = [Launch(name, tuple(first), warps, stages)]
    if before:
        about = f"puts what {name} reads into a border of zeros"
        found.insert(0, Launch(f"{name}_halo", tuple(before), 4, 1, about))
    if after:
        about = f"adds the parts of sums that {name} leaves"
        found.append(Launch(f"{name}_sum", tuple(after), 4, 1, about))
    return found


def split_of(kernel: Kernel, node: Node) -> int:
    """Into how many parts the sum of an anchor is split."""
    return kernel.integer(f"split_{node.name}") if splits(node) else 1


def scheduled_halo(kernel: Kernel, node: Node) -> Halo | None:
    """The border that a convolution is scheduled to be done over, if it is."""
    if kernel.schedule.get(f"loop_{node.name}") != "halo":
        return None
    halo = halo_of(kernel, node)
    if halo is None:
        raise kernel.refusal(f"{node.op} cannot be done over a border of zeros here")
    return halo


def _halo_copy(kernel: Kernel, halo: Halo) -> Section:
    of, name = halo.stored.type, f"{section_name(kernel, halo.anchor)}_halo"
    block = min(COPIED, power(of.elements(1)))

    def write(t: Tile, pid: Symbol) -> None:
        n, *rest = flat_coords(t, of, pid, block)
        write_copy(t, halo, [t.among_images(n), *rest])

    return Section(name, tiles(of.elements(1), block), write)


def _halo_product(kernel: Kernel, part: Part, halo: Halo) -> Section:
    tile = kernel.integers(f"tile_{halo.anchor.name}", 3)

    def write(t: Tile, pid: Symbol) -> None:
        coords = write_halo_product(t, halo, pid, tile)
        t.known(halo.anchor.result, coords, "acc")
        t.results(part.yields, coords)

    return Section(section_name(kernel, halo.anchor), halo.programs(tile), write)


def _rows_launch(kernel: Kernel, name: str, warps: int, stages: int) -> Launch:
    size, block = rows.row_values(kernel)[0].type, kernel.integer("rows")
    total = size.elements(kernel.batch) // size.inner[-1]
    programs = 1 if rows.totals(kernel) else tiles(total, block)

    def write(t: Tile, pid: Symbol) -> None:
        rows.write_rows(t, kernel, pid, block)

    return Launch(name, (Section(name, programs, write),), warps, stages)


def section_name(kernel: Kernel, node: Node) -> str:
    """A function for one of several parts of a kernel."""
    short = {"conv2d_input_grad": "dx", "conv2d_filter_grad": "dw", "reduce_sum": "db"}
    kind = short.get(node.op, node.op)
    if node.op == "matmul":
        kind = "dw" if node.attrs["transpose_a"] else "dx"
    return f"{function_name(kernel)}_{kind}"


def planes(kernel: Kernel, node: Node, split: int) -> Value:
    """Where the parts of a sum wait to be added: [split, …]."""
    kind = computed(node.result.type.dtype)
    of = TensorType(kind, (split, *node.result.type.bind(kernel.batch)))
    return Value(f"{kernel.node.name}!planes_{node.name}", of)


def _product(kernel: Kernel, part: Part) -> Section:
    node = part.anchor
    assert node is not None
    tile = kernel.integers(f"tile_{node.name}", 3)
    split = split_of(kernel, node)
    taps = 2 if kernel.schedule.get(f"loop_{node.name}") == "tap" else 0
    spec = contraction(kernel, part, taps)
    pool, yields = pool_of(kernel, part), part.yields

    def write(t: Tile, pid: Symbol) -> None:
        done = write_product(t, spec, pid, tile, split)
        coords = spec.result(t, done.outer, done.rows, done.columns)
        if pool is not None:
            window = (*spec.rows[:3],)
            pooled = (window[0], ("p", window[1][1]), ("q", window[2][1]))
            write_pooled(
                t,
                spec,
                pool,
                coords,
                pooled,
                done.rows[-1],
                done.row_tile,
                tile,
                yields,
            )
        elif split > 1:
            store = planes(kernel, node, split)
            t.store(store, store.name, [done.part, *coords], "acc")
        else:
            t.known(node.result, coords, "acc")
            t.results(yields, coords)

    return Section(section_name(kernel, node), spec.programs(tile, split), write)


def splits(node: Node) -> bool:
    """Whether a sum may be made in parts that are added by a second launch."""
    batched = node.operands[0].type.batched and not node.result.type.batched
    return node.op == "conv2d_filter_grad" or (
        node.op in ("reduce_sum", "reduce_mean") or (node.op == "matmul" and batched)
    )


def _reduction(kernel: Kernel, part: Part) -> Section:
    node = part.anchor
    assert node is not None
    tile = kernel.integers(f"tile_{node.name}", 2)
    split = split_of(kernel, node)
    kept, _ = reduction.parts_of(node)
    columns = tiles(size_of(kept, kernel.batch), tile[1])

    def write(t: Tile, pid: Symbol) -> None:
        at, own = reduction.write_sum(t, node, pid, tile, split)
        if split > 1:
            store = planes(kernel, node, split)
            t.store(store, store.name, [own, *at], "acc")
        else:
            t.known(node.result, at, "acc")
            t.results(part.yields, at)

    return Section(section_name(kernel, node), split * columns, write)


BLOCK = 256
"""Elements of a program that adds the parts of a sum."""
COPIED = 2048
"""Elements of a program that gives an image its border."""


def _finish(kernel: Kernel, part: Part, split: int) -> Section:
    """Adds the parts of a sum in their order, and what follows the sum."""
    node = part.anchor
    assert node is not None
    store = planes(kernel, node, split)
    size = node.result.type.elements(kernel.batch)

    def write(t: Tile, pid: Symbol) -> None:
        coords = flat_coords(t, node.result.type, pid, min(BLOCK, power(size)))
        t.line(f"acc = {t.full(coords, '0', store.type.dtype)}")
        number = t.unique("part")
        with t.inside(f"for {number} in range({split}):") as block:
            plane = Index.of(t.counter(number, split, block))
            t.line(f"acc += {t.load(store, store.name, [plane, *coords])}")
        t.known(node.result, coords, reduction.divided(t, node, "acc"))
        t.results(part.yields, coords)

    name = f"{section_name(kernel, node)}_sum"
    return Section(name, tiles(size, min(BLOCK, power(size))), write)


def flat_coords(t: Tile, of: TensorType, pid: Symbol, block: int) -> Coords:
    """The indices of the elements of a block, one after the other in memory."""
    size = of.elements(t.batch)
    if not of.shape:
        t.shape = {}
        return []
    t.shape = {0: block}
    many = tiles(size, block) > 1
    text = f"tl.arange(0, {block})"
    if many:
        text = f"{pid.name} * {block} + {text}"
    index = t.symbol("index", size, text, (0,), needs=[pid] if many else [])
    parts = tuple(zip(reduction.NAMES, of.shape, strict=False))
    axis_condition(t, index, parts, block, 0)
    return digits_of(t, index, parts)


def _flat(kernel: Kernel, part: Part) -> Section:
    """Values that need no sum, element by element."""
    of = part.yields[0].type
    size = of.elements(kernel.batch)
    block = min(kernel.integer("block"), power(size))

    def write(t: Tile, pid: Symbol) -> None:
        coords = flat_coords(t, of, pid, block)
        t.results(part.yields, coords)

    name = function_name(kernel)
    first = kernel.maker(part.yields[0])
    return Section(f"{name}_{first.op}" if first else name, tiles(size, block), write)


def scratch_values(kernel: Kernel) -> list[Value]:
    """The memory a scheduled kernel needs for itself alone."""
    if is_optimizer(kernel) or is_rows(kernel):
        return []
    found = []
    for node in (p.anchor for p in parts_of(kernel) if p.anchor is not None):
        if split_of(kernel, node) > 1:
            found.append(planes(kernel, node, split_of(kernel, node)))
        halo = scheduled_halo(kernel, node)
        if halo is not None and not halo.bare:
            images = kernel.integer(f"images_{node.name}")
            found.append(replace(halo, kernel=replace(kernel, batch=images)).stored)
    return found
