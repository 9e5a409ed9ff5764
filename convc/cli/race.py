"""``convc race``: how long a network takes to reach an accuracy, over seeds."""

from __future__ import annotations

import json
from time import perf_counter
from typing import TYPE_CHECKING, Any

import click

from convc.cli.group import (
    COUNT,
    Failure,
    chosen_rule,
    chosen_shifts,
    data_option,
    device_option,
    limit_options,
    limited,
    load_model,
    model_argument,
    options,
    print_table,
    recipe_compile_options,
    rule_options,
)

if TYPE_CHECKING:
    from convc.racing import Lap, Race
    from convc.recipes import Recipe

_race_options = options(
    click.option(
        "--target",
        metavar="PERCENT",
        type=click.FloatRange(0, 100, min_open=True),
        default=99.0,
        show_default=True,
        help="The test accuracy to reach.",
    ),
    click.option(
        "--seeds",
        type=COUNT,
        default=3,
        show_default=True,
        help="How many runs: with the seeds 0, 1, and so on.",
    ),
    click.option(
        "--epochs",
        type=COUNT,
        help="When a run is given up. [default: the recipe's where its learning rate "
        "is a schedule, or 20]",
    ),
    click.option(
        "--test-every",
        type=COUNT,
        metavar="STEPS",
        help="Test within epochs too, not just at their ends.",
    ),
    rule_options,
    limit_options,
)


@click.command()
@model_argument
@_race_options
@click.option("--json", "as_json", is_flag=True, help="Print the laps as JSON.")
@data_option
@recipe_compile_options
@device_option
def race(
    model: str,
    seeds: int,
    epochs: int | None,
    optimizer: str | None,
    learning_rate: float | None,
    shifts: int | None,
    limit: int | None,
    test_limit: int | None,
    as_json: bool,
    data: str | None,
    **settings: Any,
) -> None:
    """Train MODEL until it is good enough, with several seeds, and time it.

    The seconds of each run are split into what they went into: compiling, the data,
    the kernels of the training step, the tests, and the host's loop. The exit code is
    1 if a run misses the target. What is not given is as the network's recipe says.
    """
    from convc.data.choice import load_for
    from convc.engines import targeted
    from convc.racing import Course
    from convc.racing import race as run

    settings["backend"] = targeted(settings["backend"], settings["device"])
    loaded = load_model(model)
    began = perf_counter()
    splits = load_for(loaded.image.inner, data)
    read = perf_counter() - began
    used = limited(splits, limit, test_limit)
    rule = chosen_rule(loaded, optimizer, learning_rate)
    recipe = loaded.recipe.but(
        optimizer=rule, batch=settings.pop("batch"), augment=chosen_shifts(shifts)
    )
    settings["epochs"] = epochs or _patience(recipe)
    settings["batch"] = recipe.batch
    course = Course(**settings, optimizer=rule, augment=recipe.augment, read=read)
    result = run(loaded, used.train, used.test, course, range(seeds), _say)
    if as_json:
        told: dict[str, Any] = {"network": model, "precision": loaded.precision}
        told |= {"exact": loaded.exact, **settings}
        told |= {"data": used.train.name, "images": len(used.train)}
        told |= {"optimizer": repr(rule), "augment": repr(recipe.augment)}
        told |= result.as_json()
        click.echo(json.dumps(told, indent=2))
    else:
        click.echo(f"{model} to {course.target:g} % of {used.test.name}, in seconds")
        print_table(_table(result))
        for lap in result.laps:
            if lap.fault:
                click.echo(f"seed {lap.seed} broke off: {lap.fault}")
        if splits.notice:
            click.echo(f"notice: {splits.notice}")
    missed = seeds - len(result.finished)
    if missed:
        raise Failure(
            f"{missed} of {seeds} runs missed {course.target:g} % "
            f"within {course.epochs} epochs"
        )


def _patience(recipe: Recipe) -> int:
    """After how many epochs a run is given up: 20, or when its schedule has ended."""
    from convc.schedules import Schedule

    ends = isinstance(recipe.optimizer.learning_rate, Schedule)
    return recipe.epochs if ends else 20


def _say(line: str) -> None:
    click.echo(line, err=True)


def _table(result: Race) -> Any:
    """A row for each seed, then the median and the spread of those that got there."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from convc.racing import PARTS

    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("seed")
    for heading in ("accuracy", "epochs", "total", *PARTS):
        table.add_column(heading, justify="right")
    for lap in result.laps:
        table.add_row(*_row(lap))
    if result.finished:
        table.add_section()
        epochs, *seconds = result.summary().values()
        middle = [f"{s[0]:.2f}" for s in seconds]
        table.add_row("median", "", f"{epochs[0]:g}", *middle)
        ends = [f"{low:.2f} – {high:.2f}" for _, low, high in seconds]
        table.add_row("spread", "", f"{epochs[1]:g} – {epochs[2]:g}", *ends)
    return table


def _row(lap: Lap) -> list[str]:
    """A lap; epochs that were not enough are said to be too few."""
    epochs = f"{lap.epochs:g}" if lap.reached else f"> {lap.epochs:g}"
    numbers = [f"{seconds:.2f}" for seconds in (lap.seconds, *lap.split.values())]
    return [str(lap.seed), f"{100 * lap.accuracy:.2f} %", epochs, *numbers]
