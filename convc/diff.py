"""What changed between two stages of a program, as records.

Ops, kernels, buffers and the graph's own declarations are compared by what they are
(``convc.matching``), so that a change shows once: values that were merely renamed, and
those that only read what changed, are not listed.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

from convc.ir.graph import Arena, Attrs, Graph, Loc, Node, Parameter
from convc.ir.printer import attr_text, input_text
from convc.matching import Item, Match, Ref, match

KINDS = (
    *("stage", "input", "parameter", "output", "update"),
    *("fused", "unfused", "deleted", "added", "copied", "moved"),
    *("renamed", "attribute", "operand", "type", "layout", "schedule"),
    *("arena", "buffer"),
)
"""Every kind of change, in the order of a diff."""


@dataclass(frozen=True)
class Change:
    """One change: what happened to ``subject``, an op, kernel, value or declaration.

    ``old`` and ``new`` are empty where there is nothing on that side: a fused op's are
    its kernels. ``key`` says which attribute, operand or part of a schedule; ``kernel``
    in which kernel an op stands now, or stood when it went.
    """

    kind: str
    subject: str
    old: str = ""
    new: str = ""
    key: str = ""
    kernel: str = ""
    locs: tuple[Loc, ...] = ()


def diff(before: Graph, after: Graph) -> tuple[Change, ...]:
    """Every change from ``before`` to ``after``, in the order of ``KINDS``."""
    found = match(before, after)
    homes = _homes(found)
    changes = [
        *_declarations(before, after, found),
        *_ops(found, homes),
        *_moves(before, after, found, homes),
        *_kernels(after, found, homes),
        *_memory(before.arena, after.arena, found),
    ]
    return tuple(sorted(changes, key=lambda change: KINDS.index(change.kind)))


def _entries(
    about: Change, old: Mapping[str, str], new: Mapping[str, str]
) -> Iterator[Change]:
    """``about`` for each key whose text is not the same on both sides."""
    for key in dict.fromkeys((*old, *new)):
        if old.get(key) != new.get(key):
            yield replace(about, key=key, old=old.get(key, ""), new=new.get(key, ""))


def _texts(attrs: Attrs) -> dict[str, str]:
    return {key: attr_text(value) for key, value in attrs.items()}


def _pairs(attrs: Attrs) -> str:
    return ", ".join(f"{key}={value}" for key, value in _texts(attrs).items())


# -- inputs, parameters, outputs, updates


def _declarations(before: Graph, after: Graph, found: Match) -> Iterator[Change]:
    if before.stage != after.stage:
        yield Change("stage", "graph", before.stage, after.stage)
    for change in _entries(
        Change("input", ""),
        {str(v): input_text(before, v) for v in before.inputs},
        {str(v): input_text(after, v) for v in after.inputs},
    ):
        yield replace(change, subject=change.key, key="")
    yield from _parameters(before, after)
    yield from _ends(
        "output",
        {k: found.old.refs[v.name] for k, v in before.outputs},
        {k: found.new.refs[v.name] for k, v in after.outputs},
        found,
    )
    yield from _ends(
        "update",
        {str(p): found.old.refs[v.name] for p, v in before.updates},
        {str(p): found.new.refs[v.name] for p, v in after.updates},
        found,
    )


def _parameters(before: Graph, after: Graph) -> Iterator[Change]:
    old = {str(p.value): p for p in before.parameters}
    new = {str(p.value): p for p in after.parameters}
    for name, p in {**old, **new}.items():
        was, now = (_declared(side.get(name)) for side in (old, new))
        if was != now:
            yield Change("parameter", name, was, now, locs=p.locs)


def _declared(parameter: Parameter | None) -> str:
    if parameter is None:
        return ""
    kind = "param" if parameter.trainable else "state"
    rule = f"{parameter.initializer}({_pairs(parameter.attrs)})"
    return f"{kind} {parameter.value.type} = {rule}"


def _ends(
    kind: str, old: Mapping[str, Ref], new: Mapping[str, Ref], found: Match
) -> Iterator[Change]:
    for name in dict.fromkeys((*old, *new)):
        a, b = old.get(name), new.get(name)
        if not found.same(a, b):
            yield Change(kind, name, found.old.say(a), found.new.say(b))


# -- ops


def _homes(found: Match) -> dict[str, Node]:
    """The old kernel that each new one is, by the name of the new one's node.

    It is the one that most of its ops come from; each old kernel goes on as one only.
    """
    shared: Counter[tuple[str, str]] = Counter()
    left: dict[str, Node] = {}
    for now, was in found.pairs.items():
        new, old = found.new.items[now].kernel, found.old.items[was].kernel
        if new is not None and old is not None:
            shared[new.name, old.name] += 1
            left[old.name] = old
    homes: dict[str, Node] = {}
    for (new_name, old_name), _ in shared.most_common():
        if new_name not in homes and old_name in left:
            homes[new_name] = left.pop(old_name)
    return homes


def _ops(found: Match, homes: Mapping[str, Node]) -> Iterator[Change]:
    for index in found.gone():
        item, twin = found.old.items[index], found.twin(index)
        same = found.new.say(None if twin is None else (twin, 0))
        yield _about("deleted", item, item.title, same)
    for index, item in enumerate(found.new.items):
        if index in found.copies:
            source = found.old.items[found.copies[index]]
            yield _about("copied", item, source.title, item.title)
        elif index not in found.pairs:
            yield _about("added", item, "", item.title)
        else:
            old = found.old.items[found.pairs[index]]
            yield from _fusions(old, item, homes)
            yield from _differences(found, old, item)


def _about(kind: str, item: Item, old: str = "", new: str = "") -> Change:
    return Change(kind, item.title, old, new, "", item.inside, item.node.locs)


def _fusions(old: Item, new: Item, homes: Mapping[str, Node]) -> Iterator[Change]:
    if new.kernel is None and old.kernel is not None:
        yield _about("unfused", new, old.inside)
    elif new.kernel is not None and (
        old.kernel is None or homes.get(new.kernel.name) is not old.kernel
    ):
        change = _about("fused", new, old.inside, new.inside)
        yield replace(change, subject=old.title)  # in the kernel it may have no name


def _differences(found: Match, old: Item, new: Item) -> Iterator[Change]:
    yield from _entries(
        _about("attribute", new), _texts(old.node.attrs), _texts(new.node.attrs)
    )
    for at, (a, b) in enumerate(zip_longest(old.operands, new.operands)):
        if not found.same(a, b):
            change = _about("operand", new, found.old.say(a), found.new.say(b))
            yield replace(change, key=str(at))
    for at, was in enumerate(old.results):
        now = new.results[at]
        if was.type.plain != now.type.plain:
            yield _about("type", new, str(was.type), str(now.type))
        elif was.type != now.type and old.shown[at] and new.shown[at]:
            yield _about("layout", new, str(was.type), str(now.type))


# -- order


def _moves(
    before: Graph, after: Graph, found: Match, homes: Mapping[str, Node]
) -> Iterator[Change]:
    """The fewest ops and kernels of both graphs that must move to make the order."""
    places = {node.name: at for at, node in enumerate(before.nodes)}
    old_of = {new: old.name for new, old in homes.items()}
    for now, was in found.pairs.items():
        new, old = found.new.items[now], found.old.items[was]
        if new.kernel is None and old.kernel is None:
            old_of[new.node.name] = old.node.name
    kept = [node for node in after.nodes if node.name in old_of]
    order = [places[old_of[node.name]] for node in kept]
    still = _increasing(order)
    for at, node in enumerate(kept):
        if at not in still:
            place = f"after {_spoken(kept[at - 1], found)}" if at else "to the front"
            yield Change("moved", _spoken(node, found), "", place, locs=node.locs)


def _spoken(node: Node, found: Match) -> str:
    name = found.new.kernels.get(node.name)
    return f"kernel {name}" if name else f"{node.op} %{node.name}"


def _increasing(numbers: Sequence[int]) -> set[int]:
    """Where a longest increasing subsequence stands.

    Fredman, "On computing the length of longest increasing subsequences" (1975).
    """
    tails: list[int] = []
    ends: list[int] = []
    previous: list[int] = []
    for at, number in enumerate(numbers):
        length = bisect_left(tails, number)
        previous.append(ends[length - 1] if length else -1)
        tails[length : length + 1] = [number]
        ends[length : length + 1] = [at]
    found, at = set(), ends[-1] if ends else -1
    while at >= 0:
        found.add(at)
        at = previous[at]
    return found


# -- kernels and memory


def _kernels(after: Graph, found: Match, homes: Mapping[str, Node]) -> Iterator[Change]:
    for node in after.nodes:
        if node.region is None:
            continue
        old, name = homes.get(node.name), found.new.kernels[node.name]
        about = Change("schedule", f"kernel {name}", kernel=name, locs=node.locs)
        if old is not None and old.attrs["name"] != node.attrs["name"]:
            was = found.old.kernels[old.name]
            yield replace(about, kind="renamed", old=was, new=name)
        if old is None or old.schedule is None or node.schedule is None:
            was, now = (_pairs((n and n.schedule) or {}) for n in (old, node))
            if was != now:
                yield replace(about, old=was, new=now)
        else:
            yield from _entries(about, _texts(old.schedule), _texts(node.schedule))


def _memory(old: Arena | None, new: Arena | None, found: Match) -> Iterator[Change]:
    was, now = _head(old), _head(new)
    if was != now:
        yield Change("arena", "arena", was, now)
    for change in _entries(
        Change("buffer", ""), _buffers(old, _names(found)), _buffers(new, {})
    ):
        yield replace(change, subject=change.key, key="")


def _head(arena: Arena | None) -> str:
    if arena is None:
        return ""
    return f"{arena.size} bytes, batch {arena.batch}, threads {arena.threads}"


def _names(found: Match) -> dict[str, str]:
    """What old values that the graph shows are called now, where it shows them."""
    names = {}
    for now, was in found.pairs.items():
        old, new = found.old.items[was], found.new.items[now]
        for at, value in enumerate(old.results):
            if old.shown[at] and new.shown[at]:
                names[value.name] = new.results[at].name
    return names


def _buffers(arena: Arena | None, names: Mapping[str, str]) -> dict[str, str]:
    """Where each buffer lies, by its value; ``kernel!scratch`` goes with its kernel."""
    found = {}
    for b in arena.buffers if arena else ():
        value, mark, scratch = b.name.partition("!")
        text = f"{b.size} bytes at {b.offset}, launches {b.first} to {b.last}"
        found[f"%{names.get(value, value)}{mark}{scratch}"] = text
    return found
