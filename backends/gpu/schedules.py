"""Tile sizes worth trying for each kernel, and what they are predicted to cost.

The prediction is a roofline for each tile: a multiprocessor works on one tile at a
time, as fast as its arithmetic, its index arithmetic and its share of the second-level
cache allow, whichever is slowest; the device works in waves of as many tiles as it has
multiprocessors (NVIDIA, "Matrix multiplication background user's guide", wave and tile
quantization). It ranks; ``convc tune`` measures.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, product, zip_longest

from convc.backends.base import Candidate, Cost
from convc.backends.gpu import optimizer, reduction, rows
from convc.backends.gpu.contraction import Contraction, size_of
from convc.backends.gpu.halo import halo_of
from convc.backends.gpu.kernel import Kernel
from convc.backends.gpu.region import (
    PRODUCTS,
    Part,
    contraction,
    is_optimizer,
    is_rows,
    parts_of,
    splits,
)
from convc.backends.gpu.section import power, tiles
from convc.backends.gpu.targets import Target
from convc.ir.graph import Attr, Node
from convc.ir.ops import OPS

CACHE = 2.0
"""How many times faster than memory the second-level cache is."""
START = 1.5e-6
"""Seconds of a tile before its first product and after its last."""
STEP = 0.25e-6
"""Seconds that a step of a loop takes whatever its size."""
REDUCE = 1.5e-6
"""Seconds that a step of a sum takes whatever its size: its loads are not pipelined."""
SLOWER = {3: 1.0, 2: 1.1, 1: 1.6}
"""How much longer a loop takes that loads fewer steps ahead, by its stages."""
SPARE = 1.2
"""How much more shared memory a block may take than the stages of a loop."""
MOST = 24
"""How many candidates a kernel has at most."""


@dataclass(frozen=True)
class Option:
    """A choice for one part of a kernel: what it says in the schedule, what it costs.

    ``area`` is a tile's, ``shared_bytes`` what a stage of its loop keeps. ``tiles``
    programs take ``seconds`` each, further launches ``after`` in all.
    """

    attrs: dict[str, Attr]
    area: int
    shared_bytes: int
    tiles: int
    seconds: float
    after: float = 0.0

    def alone(self, device: Target) -> float:
        """Seconds on an otherwise idle device."""
        further = self.after + device.launch_seconds if self.after else 0.0
        return tiles(self.tiles, device.sms) * self.seconds + further


def candidates(kernel: Kernel, device: Target) -> tuple[Candidate, ...]:
    """The schedules of a kernel, best prediction first."""
    interpreted = not device.compiles
    if is_optimizer(kernel):
        size = optimizer.total(kernel)
        blocks = [1 << 18] if interpreted else [1024, 2048, 512]
        found = [_plain("flat", kernel, device, size, b) for b in blocks]
    elif is_rows(kernel):
        found = _rows(kernel, device)
    else:
        found = _parts(kernel, device)
    return tuple(sorted(found, key=lambda c: c.cost.seconds))


def _traffic(kernel: Kernel) -> float:
    """Bytes of all operands and results."""
    values = {*kernel.node.operands, *kernel.node.results}
    return float(sum(v.type.nbytes(kernel.batch) for v in values))


def _flops(kernel: Kernel) -> float:
    return float(
        sum(
            OPS[n.op].flops([v.type for v in n.operands], n.attrs, kernel.batch)
            for n in kernel.ops
        )
    )


def _cost(kernel: Kernel, device: Target, seconds: float, calls: float = 1) -> Cost:
    least = _traffic(kernel) / device.bandwidth
    total = max(seconds, least) + calls * device.launch_seconds
    return Cost(_flops(kernel), _traffic(kernel), 0.0, calls, total)


def _plain(
    algorithm: str, kernel: Kernel, device: Target, size: int, block: int
) -> Candidate:
    """A pass over elements, ``block`` to a program."""
    warps = 1 if not device.compiles else max(1, min(8, block // 128))
    schedule: dict[str, Attr] = {
        "algorithm": algorithm,
        "block": block,
        "warps": warps,
        "stages": 1,
    }
    programs = tiles(size, block)
    share = _traffic(kernel) / programs / (CACHE * device.bandwidth / device.sms)
    waves = tiles(programs, device.sms * 8)
    return Candidate(schedule, _cost(kernel, device, waves * (START + share)))


def _rows(kernel: Kernel, device: Target) -> list[Candidate]:
    width, of = rows.width_of(kernel), rows.row_values(kernel)[0].type
    count = of.elements(kernel.batch) // of.inner[-1]
    room = (1 << 18) if not device.compiles else 4096
    most = max(1, min(power(count), room // width))
    found = []
    for block in dict.fromkeys((most, max(1, most // 2), max(1, most // 4))):
        made = _plain("rows", kernel, device, count, block)
        schedule = {k: v for k, v in made.schedule.items() if k != "block"}
        schedule["rows"] = block
        schedule["warps"] = 4 if device.compiles else 1
        found.append(Candidate(schedule, made.cost))
    return found


def _parts(kernel: Kernel, device: Target) -> list[Candidate]:
    """Combinations: the best option of each part, and others of one part at a time."""
    parts, found = parts_of(kernel), []
    flat = [p for p in parts if p.anchor is None]
    options = [
        sorted(_options(kernel, part, device), key=lambda o: o.alone(device))
        for part in parts
        if part.anchor is not None
    ]
    if flat and not options:
        size = max(p.yields[0].type.elements(kernel.batch) for p in flat)
        blocks = [1 << 17] if not device.compiles else [1024, 512, 256, 2048]
        return [_plain("elementwise", kernel, device, size, b) for b in blocks]
    best = [choice[0] for choice in options]
    others = [
        [[*best[:number], o, *best[number + 1 :]] for o in choice[1:]]
        for number, choice in enumerate(options)
    ]
    in_turn = chain.from_iterable(zip_longest(*others))  # of each part its second best
    combined = [best, *(choice for choice in in_turn if choice is not None)]
    for choice in combined[: MOST // 2]:
        for warps, stages in _threads(choice, device):
            found.append(_combined(kernel, device, choice, warps, stages, bool(flat)))
    return found


def _threads(choice: Sequence[Option], device: Target) -> list[tuple[int, int]]:
    """Warps and pipeline stages that suit the largest tile."""
    if not device.compiles:
        return [(1, 1)]
    warps = 8 if max(option.area for option in choice) >= 128 * 128 else 4
    stage = max(option.shared_bytes for option in choice)
    return [(warps, n) for n in (3, 2, 1) if _fits(stage, n, device)][:2]


def _fits(stage: int, stages: int, device: Target) -> bool:
    """Whether a block has room for the stages of a loop, and the one being read."""
    return (stages + 1) * stage * SPARE <= device.block_shared_bytes


def _combined(
    kernel: Kernel,
    device: Target,
    choice: Sequence[Option],
    warps: int,
    stages: int,
    flat: bool,
) -> Candidate:
    products = any(n.op in PRODUCTS for n in kernel.ops)
    algorithm = "implicit_gemm" if products else "reduction"
    schedule: dict[str, Attr] = {"algorithm": algorithm}
    for option in choice:
        schedule |= option.attrs
    if flat:
        schedule["block"] = 1024 if device.compiles else 1 << 17
    schedule |= {"warps": warps, "stages": stages}
    work = sum(o.tiles * o.seconds for o in choice) / device.sms
    seconds = max(work, *(o.seconds for o in choice))
    after = max(o.after for o in choice)
    seconds *= SLOWER[stages]
    calls = 2 if after else 1
    return Candidate(schedule, _cost(kernel, device, seconds + after, calls))


def _options(kernel: Kernel, part: Part, device: Target) -> Iterator[Option]:
    node = part.anchor
    assert node is not None
    make = _product if node.op in PRODUCTS else _reduction
    yield from make(kernel, part, node, device)


def _product(
    kernel: Kernel, part: Part, node: Node, device: Target
) -> Iterator[Option]:
    """Tiles that are no larger than they need be, with each loop that makes sense."""
    for loop in _loops(kernel, node):
        spec = contraction(kernel, part, 0 if loop in ("", "flat") else 2)
        summed = spec.summed[spec.taps :]
        sizes = [spec.size(p) for p in (spec.rows, spec.columns, summed)]
        width = node.operands[0].type.dtype.itemsize
        for tile in _shapes(sizes, width, _precision(node), device):
            if tile[0] < 2 * spec.positions or tile[2] > _deepest(node, device):
                continue
            for split in _shares(node, spec, tile, device):
                yield _product_option(spec, node, loop, tile, split, device)


def _loops(kernel: Kernel, node: Node) -> tuple[str, ...]:
    """The loops over taps and channels that a product may have."""
    if node.op == "conv2d":
        channels = node.operands[1].type.inner[2]
    elif node.op == "conv2d_input_grad":
        channels = node.operands[1].type.inner[3]
    else:
        return ("",)
    if channels % 16:
        return ("flat", "tap") if channels > 16 else ("flat",)
    halo = halo_of(kernel, node) if _precision(node) != "fp32" else None
    return ("tap",) if halo is None else ("tap", "halo")


def _deepest(node: Node, device: Target) -> int:
    """How many positions a step may sum: those of a convolution need indices each."""
    return 128 if node.op == "matmul" or not device.compiles else 64


def _shapes(
    sizes: Sequence[int], width: int, precision: str, device: Target
) -> Iterator[tuple[int, int, int]]:
    """Rows, columns and depth of a tile.

    Sums in float32 proper lie in registers with the operands of a step, which bounds
    the volume of a tile; tensor cores read operands from shared memory.
    """
    if not device.compiles:
        depth = min(128, max(16, power(sizes[2])))
        columns = min(512, max(16, power(sizes[1])))
        rows = min(2048, max(16, power(sizes[0])))
        yield rows, columns, depth
        return
    plain = precision == "fp32"
    depths = (16, 32) if plain else (32, 64, 128, 16)
    for rows, columns, depth in product(
        (128, 64, 32, 16, 256), (64, 128, 32, 16), depths
    ):
        wanted = zip((rows, columns, depth), sizes, strict=True)
        if not all(tile <= max(16, power(size)) for tile, size in wanted):
            continue
        small = rows * columns * depth <= 64 * 64 * 16 * (1 if plain else 32)
        if small and _fits(width * depth * (rows + columns), 1, device):
            yield rows, columns, depth


def _shares(
    node: Node, spec: Contraction, tile: tuple[int, int, int], device: Target
) -> Iterator[int]:
    """Into how many parts a sum is split, so that the device is busy."""
    if not splits(node) or not device.compiles:
        yield 1
        return
    programs, steps = spec.programs(tile), tiles(spec.size(spec.summed), tile[2])
    split = 1
    while True:
        yield split
        split *= 2
        if split > steps // 4 or split * programs > 4 * device.sms:
            return


def _product_option(
    spec: Contraction,
    node: Node,
    loop: str,
    tile: tuple[int, int, int],
    split: int,
    device: Target,
) -> Option:
    rows, columns, depth = tile
    attrs: dict[str, Attr] = {f"tile_{node.name}": tile}
    programs = spec.programs(tile, split)
    if loop:
        attrs[f"loop_{node.name}"] = loop
    halo = halo_of(spec.kernel, node) if loop == "halo" else None
    if halo is not None:
        if not halo.bare:
            attrs[f"images_{node.name}"] = spec.kernel.batch
        programs = halo.programs(tile)
    if splits(node):
        attrs[f"split_{node.name}"] = split
    steps = tiles(spec.size(spec.summed[spec.taps :]), depth)
    steps = tiles(steps * spec.size(spec.summed[: spec.taps]), split)
    sm = device.flops[_precision(node)] / device.sms
    filled = (rows * columns / (128 * 64)) ** 0.25
    arithmetic = 2.0 * rows * columns * depth / sm / (0.8 * filled)
    width = node.operands[0].type.dtype.itemsize
    moved = width * depth * (rows + columns) / (CACHE * device.bandwidth / device.sms)
    indices = (8 if not spec.taps else 0 if halo else 2) * depth * (rows + columns)
    integer = indices / (device.flops["fp32"] / device.sms / 4)
    seconds = START + steps * (STEP + max(arithmetic, moved) + integer)
    after = 0.0
    if split > 1:
        size = node.result.type.nbytes(spec.kernel.batch)
        after = START + split * size / (CACHE * device.bandwidth)
    if halo is not None and not halo.bare:
        after += START + 2 * halo.stored.type.nbytes(1) / device.bandwidth
    shared = width * depth * (rows + columns)
    return Option(attrs, rows * columns, shared, programs, seconds, after)


def _precision(node: Node) -> str:
    if node.attrs.get("precision") == "tf32":
        return "tf32"
    return "bf16" if node.operands[0].type.dtype.itemsize == 2 else "fp32"


def _reduction(
    kernel: Kernel, part: Part, node: Node, device: Target
) -> Iterator[Option]:
    kept, reduced = reduction.parts_of(node)
    columns, total = (size_of(p, kernel.batch) for p in (kept, reduced))
    splitting = splits(node)
    room = 4096 if device.compiles else 1 << 18
    width = min(power(columns), 64 if device.compiles else 1024)
    deep = max(1, min(power(total), room // width))
    limit = 256 if splitting and device.compiles else 1
    split = 1
    while split <= limit:
        programs = split * tiles(columns, width)
        share = tiles(tiles(total, split), deep) * deep
        moved = 4.0 * share * width / (CACHE * device.bandwidth / device.sms)
        seconds = START + share / deep * REDUCE + moved
        attrs: dict[str, Attr] = {f"tile_{node.name}": (deep, width)}
        after = 0.0
        if splitting:
            attrs[f"split_{node.name}"] = split
            after = START if split > 1 else 0.0
        yield Option(attrs, deep * width, 0, programs, seconds, after)
        split *= 4
        if share <= deep or programs > 2 * device.sms:
            return
