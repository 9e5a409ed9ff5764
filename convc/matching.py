"""Which op of one graph is which of another, whatever they are called by now.

Kernels are looked through: an op counts as the same wherever it stands. An op of the
new graph is, in this order,

1. the old one that computes the same: the same op and attributes on the same operands,
   down to inputs and parameters, which go by their names;
2. else an unmatched one with a result of the same name, the same op and, if both say
   where they come from, a line in common;
3. else the first unmatched one with the same op and a line in common.

What 2 and 3 find counts as the same for those that read it, so that a change shows
once, where it was made. An op that computes what an old one does that is matched
already is a copy of it.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from convc.ir.graph import Graph, Node, Value

Ref = str | tuple[int, int]
"""An operand: an input or parameter by its name, or an item and which result of it."""


@dataclass(frozen=True)
class Item:
    """An op, in a kernel or outside, and what its operands are seen from there.

    ``results`` are the graph's values where the kernel shows them, else the body's;
    ``shown`` says which. ``inside`` is what people call its kernel, "" without one.
    """

    node: Node
    operands: tuple[Ref, ...]
    results: tuple[Value, ...]
    shown: tuple[bool, ...]
    kernel: Node | None = None
    inside: str = ""

    @property
    def name(self) -> str:
        """The first result that can be seen outside, else ``%a`` of its kernel."""
        for value, shown in zip(self.results, self.shown, strict=True):
            if shown:
                return str(value)
        return f"{self.results[0]}{f' of {self.inside}' if self.inside else ''}"

    @property
    def title(self) -> str:
        """Op and name: ``relu %3``."""
        return f"{self.node.op} {self.name}"


@dataclass(frozen=True)
class Ops:
    """The ops of a graph in order, and what each of its values refers to.

    ``kernels`` is what people call each kernel, by its node.
    """

    items: list[Item] = field(default_factory=list)
    refs: dict[str, Ref] = field(default_factory=dict)
    kernels: dict[str, str] = field(default_factory=dict)

    def say(self, ref: Ref | None) -> str:
        """``relu %3``: a reference for people, "" if there is none."""
        if not isinstance(ref, tuple):
            return f"%{ref}" if ref else ""
        item, value = self.items[ref[0]], self.items[ref[0]].results[ref[1]]
        name = str(value) if item.shown[ref[1]] else item.name
        return f"{item.node.op} {name}"


def ops_of(graph: Graph) -> Ops:
    """Every op of ``graph``, those in kernels too."""
    ops = Ops(kernels=kernel_names(graph))
    for value in (*graph.inputs, *(p.value for p in graph.parameters)):
        ops.refs[value.name] = value.name
    for node in graph.nodes:
        if node.region is None:
            item = _item(node, ops.refs, {v: v for v in node.results})
            _append(ops, item, ops.refs)
            continue
        local = {
            inside.name: ops.refs[outside.name]
            for inside, outside in zip(node.region.inputs, node.operands, strict=True)
        }
        seen = dict(zip(node.region.yields, node.results, strict=True))
        for inner in node.region.nodes:
            _append(ops, _item(inner, local, seen, node, ops.kernels[node.name]), local)
        for inside, outside in seen.items():
            ops.refs[outside.name] = local[inside.name]
    return ops


def _item(
    node: Node,
    refs: dict[str, Ref],
    seen: dict[Value, Value],
    kernel: Node | None = None,
    inside: str = "",
) -> Item:
    return Item(
        node,
        tuple(refs[v.name] for v in node.operands),
        tuple(seen.get(v, v) for v in node.results),
        tuple(v in seen for v in node.results),
        kernel,
        inside,
    )


def kernel_names(graph: Graph) -> dict[str, str]:
    """What people call each kernel, by its node: its name, and %7 if others have it."""
    names = {n.name: str(n.attrs["name"]) for n in graph.nodes if n.region is not None}
    counts = Counter(names.values())
    return {
        node: name if counts[name] == 1 else f"{name} %{node}"
        for node, name in names.items()
    }


def _append(ops: Ops, item: Item, refs: dict[str, Ref]) -> None:
    for at, value in enumerate(item.node.results):
        refs[value.name] = (len(ops.items), at)
    ops.items.append(item)


@dataclass(frozen=True)
class Match:
    """Two graphs' ops side by side.

    ``pairs`` has the old item of a new one, ``copies`` the one that a new one repeats.
    Two items with the same number in ``was`` (of old items) and ``now`` (of new ones)
    compute the same.
    """

    old: Ops
    new: Ops
    pairs: dict[int, int] = field(default_factory=dict)
    copies: dict[int, int] = field(default_factory=dict)
    was: list[int] = field(default_factory=list)
    now: list[int] = field(default_factory=list)

    def same(self, old: Ref | None, new: Ref | None) -> bool:
        """Whether a reference into each graph is to the same tensor."""
        return _meaning(old, self.was) == _meaning(new, self.now)

    def gone(self) -> Iterator[int]:
        """The old items that no new one is."""
        found = set(self.pairs.values())
        yield from (i for i in range(len(self.old.items)) if i not in found)

    def twin(self, index: int) -> int | None:
        """A new item that computes what this old one did, if there is one."""
        wanted = self.was[index]
        return self.now.index(wanted) if wanted in self.now else None


def match(before: Graph, after: Graph) -> Match:
    """The ops of both graphs, matched by the rules above."""
    found = Match(ops_of(before), ops_of(after))
    numbers: dict[object, int] = {}
    for item in found.old.items:
        found.was.append(_number(item, found.was, numbers))
    for item in found.new.items:
        found.now.append(_number(item, found.now, numbers))
    same: dict[int, list[int]] = defaultdict(list)
    for index, number in enumerate(found.was):
        same[number].append(index)
    for index in range(len(found.now)):
        _exactly(found, index, same)
    for index, item in enumerate(found.new.items):
        if index not in found.pairs and index not in found.copies:
            found.now[index] = _number(item, found.now, numbers)
            if not _exactly(found, index, same):
                _loosely(found, index)
    return found


def _meaning(ref: Ref | None, numbers: list[int]) -> object:
    return (numbers[ref[0]], ref[1]) if isinstance(ref, tuple) else ref


def _number(item: Item, known: list[int], numbers: dict[object, int]) -> int:
    """The number of what an item computes: its op, attributes and operands."""
    attrs = repr(sorted(item.node.attrs.items()))  # 1, 1.0 and true differ
    operands = tuple(_meaning(ref, known) for ref in item.operands)
    return numbers.setdefault((item.node.op, attrs, operands), len(numbers))


def _exactly(found: Match, index: int, same: dict[int, list[int]]) -> bool:
    """Rule 1, preferring an old item of the same name."""
    candidates = same.get(found.now[index], [])
    free = _free(found, candidates)
    name = found.new.items[index].name
    named = [i for i in free if found.old.items[i].name == name]
    if free:
        found.pairs[index] = (named or free)[0]
    elif candidates:
        found.copies[index] = candidates[0]
    return bool(candidates)


def _loosely(found: Match, index: int) -> None:
    """Rules 2 and 3."""
    item = found.new.items[index]
    alike = [
        i
        for i in _free(found, range(len(found.old.items)))
        if found.old.items[i].node.op == item.node.op
    ]
    named = [i for i in alike if found.old.items[i].name == item.name]
    for i in named:
        old = found.old.items[i]
        if not (old.node.locs and item.node.locs) or _related(old, item):
            return _pair(found, index, i)
    for i in alike:
        if _related(found.old.items[i], item):
            return _pair(found, index, i)
    return None


def _related(a: Item, b: Item) -> bool:
    return not set(a.node.locs).isdisjoint(b.node.locs)


def _pair(found: Match, index: int, old: int) -> None:
    found.pairs[index] = old
    found.now[index] = found.was[old]


def _free(found: Match, among: Iterable[int]) -> list[int]:
    taken = set(found.pairs.values())
    return [i for i in among if i not in taken]
