"""What was measured on a GPU beside the goals, for people."""

from collections.abc import Sequence
from statistics import median
from typing import Any

from gpu_layers import DIRECTIONS
from gpu_networks import GRAPH
from gpu_rivals import COMPILED
from rich.box import SIMPLE_HEAD
from rich.table import Table

Row = dict[str, Any]

STEP_GOAL_US, COMPILED_GOAL, EAGER_GOAL = 60.0, 2.0, 10.0
LAYER_GOALS = {
    "3x3": 0.85,
    "1x1": 0.95,
    "input gradient": 0.85,
    "filter gradient": 0.70,
}
"""At least this part of cuDNN's speed, in bf16 with 64 channels or more."""


def goals_of(sections: Row) -> list[Row]:
    """Every goal with what was measured, None where nothing was."""
    steps = _steps_of(sections)
    goals = [_step_goal(steps), *_speed_goals(steps)]
    layers = _best_layers([*sections.get("layers", []), *sections.get("schedules", [])])
    for name, wanted in LAYER_GOALS.items():
        shares = [r["cudnn_share"] for r in layers if r["goal"] == name]
        goals.append(
            {
                "goal": f"{name}, bf16, 64 channels or more, of cuDNN's speed: "
                f"the least of {len(shares)}",
                "wanted": f">= {wanted}",
                "measured": min(shares, default=None),
                "median": median(shares) if shares else None,
                "met": min(shares) >= wanted if shares else None,
            }
        )
    return goals


def _steps_of(sections: Row) -> list[Row]:
    """The rows of the goals' step, tuned or not: of most rivals, then the faster."""
    found = [
        [r for r in sections.get(name, []) if "speedup" in r]
        for name in ("step", "tuned step")
    ]

    def rank(rows: list[Row]) -> tuple[int, float]:
        rivals = {name for r in rows for name in r["speedup"]}
        return -len(rivals), _graph_us(rows)

    return min((rows for rows in found if rows), key=rank, default=[])


def _graph_us(rows: Sequence[Row]) -> float:
    """The time with one CUDA graph, over all races that it ran."""
    return median(float(r["contestants"][GRAPH]["median_us"]) for r in rows)


def _step_goal(rows: Sequence[Row]) -> Row:
    found = _graph_us(rows) if rows else None
    return {
        "goal": "training step of two_conv, batch 128, tf32, one CUDA graph, in µs",
        "wanted": f"<= {STEP_GOAL_US:g}",
        "measured": found,
        "met": None if found is None else found <= STEP_GOAL_US,
    }


def _speed_goals(rows: Sequence[Row]) -> list[Row]:
    """Against the fastest of those that are meant."""
    races: dict[str, list[float]] = {}
    for row in rows:
        for name, ratio in row["speedup"].items():
            races.setdefault(name, []).append(ratio)
    goals = []
    for what, names, wanted in (
        ("torch.compile with CUDA graphs, the fastest", COMPILED, COMPILED_GOAL),
        ("torch eager", ("torch eager",), EAGER_GOAL),
    ):
        found = min((median(races[n]) for n in names if n in races), default=None)
        goals.append(
            {
                "goal": f"the same step, times as fast as {what}",
                "wanted": f">= {wanted:g}",
                "measured": found,
                "met": None if found is None else found >= wanted,
            }
        )
    return goals


def _best_layers(rows: Sequence[Row]) -> list[Row]:
    """Of each layer, direction and precision the fastest that was measured."""
    best: dict[tuple[str, ...], Row] = {}
    for row in rows:
        if "cudnn_share" not in row:
            continue
        key = (row["layer"], row["direction"], row["precision"])
        if key not in best or row["cudnn_share"] > best[key]["cudnn_share"]:
            best[key] = row
    return list(best.values())


def tables(sections: Row, goals: Sequence[Row]) -> list[Table]:
    """Networks, layers, goals."""
    networks = [
        r
        for name in ("step", "tuned step", "networks")
        for r in sections.get(name, [])
        if "contestants" in r
    ]
    layers = _best_layers([*sections.get("layers", []), *sections.get("schedules", [])])
    drawn = [_network_table(networks), _layer_table(layers)]
    return [*(t for t in drawn if t.row_count), _goal_table(goals)]


def _table(title: str, left: Sequence[str], right: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for column in left:
        table.add_column(column, no_wrap=True)
    for column in right:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _network_table(rows: Sequence[Row]) -> Table:
    columns = ("median", "quartiles", "ratio", "roofline")
    title = "a step, in µs; ratio to convc's one graph, part of the roofline"
    table = _table(title, ("network", "contestant"), columns)
    for row in rows:
        title = f"{row['network']} {row['step']} {row['batch']} {row['precision']}"
        ours = row["contestants"].get(GRAPH, {}).get("median_us")
        for name, found in row["contestants"].items():
            share = row.get("roofline_share") if name == GRAPH else None
            table.add_row(title, name, *_cells(found, ours), _percent(share))
            title = ""
    return table


def _cells(found: Row, ours: float | None) -> list[str]:
    if "error" in found:
        return [f"failed: {found['error'].splitlines()[0][:40]}", "", ""]
    low, high = found["quartiles_us"]
    ratio = f"{found['median_us'] / ours:.2f}" if ours else ""
    return [_micro(found["median_us"]), f"{_micro(low)} – {_micro(high)}", ratio]


def _micro(value: float) -> str:
    return f"{value:.1f}" if value < 1e4 else f"{value:.0f}"


def _layer_table(rows: Sequence[Row]) -> Table:
    """A line for a layer and precision, three columns for a direction."""
    title = "layers of ResNet-50: µs, part of cuDNN's speed, part of the roofline"
    table = _table(title, ("layer", "precision"), DIRECTIONS)
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        taken = row["contestants"][row["best"]]["median_us"]
        wrong = "" if row["share_of_bound"][row["best"]] <= 1 else " wrong"
        roofline = _percent(row["roofline_share"])
        cell = f"{_micro(taken)}  {row['cudnn_share']:.2f}  {roofline}{wrong}"
        line = lines.setdefault((row["layer"], row["precision"]), {})
        line[row["direction"]] = cell
    for (layer, precision), cells in lines.items():
        table.add_row(layer, precision, *(cells.get(d, "") for d in DIRECTIONS))
    return table


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def _goal_table(goals: Sequence[Row]) -> Table:
    table = _table("goals", ("goal",), ("wanted", "measured", "met"))
    for goal in goals:
        found, met = goal["measured"], goal["met"]
        shown = "not measured" if found is None else f"{found:.2f}"
        verdict = "" if met is None else "yes" if met else "no"
        table.add_row(goal["goal"], goal["wanted"], shown, verdict)
    return table
