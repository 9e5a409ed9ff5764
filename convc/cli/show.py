"""The IR after the passes: as text, as a diff, as a drawing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import click

from convc.cli.colour import diff_text, ir_text, print_text
from convc.cli.group import (
    compile_options,
    input_option,
    load_model,
    model_argument,
    options,
    step_named,
    step_option,
)
from convc.ir.errors import CompileError

if TYPE_CHECKING:
    from rich.text import Text

    from convc.passes.manager import Stage
    from convc.pipeline import Step

_view_options = options(
    click.option(
        "--after", metavar="PASS", help="The IR after this pass. [default: the last]"
    ),
    click.option("--all", "every", is_flag=True, help="Show every stage."),
    click.option("--list", "listed", is_flag=True, help="List the passes instead."),
    click.option(
        "--diff",
        "difference",
        metavar="[PASS | A..B]",
        is_flag=False,
        flag_value="",
        default=None,
        help="What a pass changed, or what changed from A to B. [default: each pass]",
    ),
    click.option("--json", "as_json", is_flag=True, help="The diff as JSON."),
    click.option(
        "--dot", is_flag=True, help="The graph in Graphviz's language, to be drawn."
    ),
)


@click.command()
@model_argument
@_view_options
@step_option
@compile_options
@input_option
def show(
    model: str,
    after: str | None,
    every: bool,
    listed: bool,
    difference: str | None,
    as_json: bool,
    dot: bool,
    step: str,
    input_type: str | None,
    **settings: Any,
) -> None:
    """Print a model's IR, as it is after one of the passes, or what they changed."""
    views = {"--after": after, "--all": every, "--list": listed, "--diff": difference}
    given = [name for name, value in views.items() if value not in (None, False)]
    if dot and not after:
        given.append("--dot")
    if len(given) > 1:
        raise click.UsageError(f"{' and '.join(given)} exclude each other")
    if as_json and difference is None:
        raise click.UsageError("--json is for --diff")
    chosen = step_named(load_model(model, input_type), step)
    if difference is not None:
        _print_diffs(*_compared(chosen, difference, settings), as_json)
        return
    stages = _up_to(chosen, after or "").stages(**settings)
    if listed:
        _list_stages(stages)
    elif dot:
        from convc.draw import dot as drawing

        click.echo(drawing(stages[-1].graph), nl=False)
    elif every:
        print_text(ir_text("\n".join(map(_headed, stages))))
    else:
        print_text(ir_text(stages[-1].text))


def _up_to(step: Step, *last: str) -> Step:
    """The step without the passes after the last of these; one may be failing."""
    names = ["trace", *(item.name for item in step.passes)]
    for name in filter(None, last):
        if name not in names:
            raise CompileError(
                f"no pass is called {name!r}; the passes are {', '.join(names)}"
            )
    if not all(last):
        return step
    return replace(step, passes=step.passes[: max(names.index(n) for n in last)])


def _headed(stage: Stage) -> str:
    return f"# {stage.name}: {_nodes(stage)}, {stage.graph.stage} stage\n{stage.text}"


def _nodes(stage: Stage) -> str:
    return f"{len(stage.graph.nodes)} nodes"


def _list_stages(stages: list[Stage]) -> None:
    """One line a pass, with what it left undone and why."""
    width = max(len(stage.name) for stage in stages)
    for stage in stages:
        nodes = f"{len(stage.graph.nodes):4d} nodes"
        took = f"{1e3 * stage.seconds:7.2f} ms"
        click.echo(f"{stage.name:<{width}}  {nodes}  {took}  {stage.graph.stage}")
        for note in stage.refusals:
            click.echo(f"{'':<{width}}  {note}")


# -- diffs

_Pairs = Sequence[tuple["Stage", "Stage"]]


def _compared(step: Step, wanted: str, settings: dict[str, Any]) -> tuple[_Pairs, bool]:
    """The pairs of stages to compare, and whether each is of neighbours."""
    if not wanted:
        return [*pairwise(step.stages(**settings))], True
    old, dots, new = wanted.partition("..")
    if dots:
        found = {
            s.name: s for s in _up_to(step, old or "trace", new).stages(**settings)
        }
        stages = list(found.values())
        return [
            (found[old] if old else stages[0], found[new] if new else stages[-1])
        ], False
    stages = _up_to(step, wanted).stages(**settings)
    if len(stages) == 1:
        raise CompileError("no stage comes before trace; the diff of two is A..B")
    return [(stages[-2], stages[-1])], True


def _print_diffs(pairs: _Pairs, neighbours: bool, as_json: bool) -> None:
    from rich.text import Text

    from convc.diff import diff

    found = [(a, b, diff(a.graph, b.graph)) for a, b in pairs]
    if as_json:
        records = [
            {
                "before": a.name,
                "after": b.name,
                "changes": [
                    {**asdict(c), "locs": [str(loc) for loc in c.locs]} for c in changes
                ],
            }
            for a, b, changes in found
        ]
        click.echo(json.dumps(records, indent=1))
        return
    text = Text()
    for a, b, changes in found:
        text.append(_head(a, b, neighbours, bool(changes)))
        text.append(diff_text(changes))
    print_text(text)


def _head(a: Stage, b: Stage, neighbours: bool, changed: bool) -> Text:
    from rich.text import Text

    name = b.name if neighbours else f"{a.name} to {b.name}"
    count = f"{len(a.graph.nodes)} -> {_nodes(b)}" if changed else "changed nothing"
    return Text.assemble((name, "bold"), f": {count}\n")
