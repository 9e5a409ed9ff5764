"""show prints what the compiler made at each step, and what each pass changed."""

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from convc.cli import main
from convc.cli.colour import diff_text
from convc.diff import diff
from convc.draw import dot
from convc.ir.errors import CompileError
from convc.ir.parser import parse
from convc.model import Model
from convc.networks import strided
from convc.optimizers import Adam
from convc.passes.manager import Pass, Stage
from convc.pipeline import training

SMALL = ("--batch", "4", "--threads", "1")


def convc(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(main, [str(a) for a in arguments], prog_name="convc")
    assert result.exit_code in (0, 1, 2), result.output
    return result


def made(step: str = "training") -> list[Stage]:
    model = Model(strided)
    chosen = model.training_step() if step == "training" else model.inference()
    return chosen.stages(batch=4, threads=1)


def stages(step: str = "training") -> dict[str, str]:
    return {stage.name: stage.text for stage in made(step)}


def show(*arguments: str, step: str = "inference") -> str:
    result = convc("show", "strided", *arguments, "--step", step, *SMALL)
    assert result.exit_code == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("step", ["training", "inference"])
def test_show_prints_the_ir_behind_every_pass(step: str) -> None:
    expected = stages(step)
    names = list(expected)
    for name in (names[0], names[2], names[-1]):
        result = convc("show", "strided", "--step", step, "--after", name, *SMALL)
        assert result.stdout == expected[name]


def test_show_reaches_the_ir_in_front_of_a_pass_that_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = stages()

    def fail(*_: object) -> None:
        raise CompileError("out of order")

    passes = training(Adam(0.001))
    broken = (*passes[:3], Pass("broken", fail), *passes[3:])
    monkeypatch.setattr("convc.model.training", lambda *_: broken)
    shown = convc("show", "strided", "--after", passes[2].name, *SMALL)
    assert shown.stdout == expected[passes[2].name]
    assert "out of order" in convc("show", "strided", *SMALL).stderr


def test_show_without_a_pass_prints_the_last_stage_and_it_parses() -> None:
    shown = convc("show", "strided", *SMALL).stdout
    assert shown == [*stages().values()][-1]
    assert parse(shown).stage == "planned"


def test_show_lists_the_passes_in_order() -> None:
    lines = convc("show", "strided", "--list", *SMALL).stdout.splitlines()
    names = [line.split()[0] for line in lines if not line.startswith(" ")]
    assert names == list(stages())


def test_show_of_an_unknown_pass_names_those_there_are() -> None:
    result = convc("show", "strided", "--after", "magic", *SMALL)
    assert result.exit_code == 1
    assert "no pass is called 'magic'; the passes are trace, canon" in result.stderr


def test_show_all_prints_every_stage_under_its_heading() -> None:
    parts = re.split(r"^# ", show("--all"), flags=re.MULTILINE)[1:]
    heads = [part.partition("\n")[0] for part in parts]
    found = made("inference")
    assert heads == [
        f"{s.name}: {len(s.graph.nodes)} nodes, {s.graph.stage} stage" for s in found
    ]
    graphs = [parse(part.partition("\n")[2]) for part in parts]
    assert graphs == [s.graph for s in found]


def test_a_diff_of_a_pass_is_against_the_stage_before_it() -> None:
    assert show("--diff", "fuse-dense").splitlines() == [
        "fuse-dense: 4 -> 3 nodes",
        "  fused into logits_dense_bias   @ convc/networks.py:42 logits",
        "    matmul %5, bias_add %6",
    ]


def test_a_diff_of_two_stages_skips_what_lies_between() -> None:
    stage = {s.name: s.graph for s in made("inference")}
    names = ("fuse-conv", "choose-schedule")
    expected = diff_text(diff(stage[names[0]], stage[names[1]])).plain
    shown = show("--diff", "..".join(names))
    assert shown.startswith("fuse-conv to choose-schedule: ")
    assert shown.partition("\n")[2] == expected
    whole = show("--diff", "..")
    assert whole == show("--diff", "trace..plan-memory")


def test_a_diff_of_all_goes_pass_by_pass_and_says_who_changed_nothing() -> None:
    shown = show("--diff")
    for a, b in pairwise(made("inference")):
        said = diff_text(diff(a.graph, b.graph)).plain
        head = f"{b.name}: {len(a.graph.nodes)} -> {len(b.graph.nodes)} nodes\n"
        assert (head + said if said else f"{b.name}: changed nothing\n") in shown
    assert "canonicalize: changed nothing" in shown


def test_a_diff_as_json_has_every_change() -> None:
    found = made()
    shown = json.loads(show("--diff", "--json", step="training"))
    names = [s.name for s in found]
    assert [(d["before"], d["after"]) for d in shown] == [*pairwise(names)]
    for (a, b), record in zip(pairwise(found), shown, strict=True):
        changes = diff(a.graph, b.graph)
        assert [c["subject"] for c in record["changes"]] == [c.subject for c in changes]
        assert [c["locs"] for c in record["changes"]] == [
            [str(loc) for loc in c.locs] for c in changes
        ]


def test_a_diff_does_not_need_the_passes_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise CompileError("out of order")

    expected = show("--diff", "canonicalize..apply-optimizer", step="training")
    passes = (*training(Adam(0.001))[:-1], Pass("broken", fail))
    monkeypatch.setattr("convc.model.training", lambda *_: passes)
    again = show("--diff", "canonicalize..apply-optimizer", step="training")
    assert again == expected


@pytest.mark.parametrize(
    ("diff", "message"),
    [
        ("trace", "no stage comes before trace; the diff of two is A..B"),
        ("magic", "no pass is called 'magic'; the passes are trace, "),
        ("trace..magic", "no pass is called 'magic'"),
    ],
)
def test_a_diff_of_what_there_is_not_is_an_error(diff: str, message: str) -> None:
    result = convc("show", "strided", "--diff", diff, *SMALL)
    assert result.exit_code == 1
    assert message in result.stderr


def test_dot_draws_the_last_stage_or_the_one_asked_for() -> None:
    found = {s.name: s.graph for s in made("inference")}
    assert show("--dot") == dot(found["plan-memory"])
    assert show("--dot", "--after", "fuse-conv") == dot(found["fuse-conv"])


@pytest.mark.parametrize(
    ("views", "message"),
    [
        (("--list", "--after", "trace"), "--after and --list exclude each other"),
        (("--all", "--diff"), "--all and --diff exclude each other"),
        (("--all", "--dot"), "--all and --dot exclude each other"),
        (("--json",), "--json is for --diff"),
    ],
)
def test_views_that_exclude_each_other(views: tuple[str, ...], message: str) -> None:
    result = convc("show", "strided", *views)
    assert result.exit_code == 2
    assert message in result.stderr


def test_show_in_another_precision_shows_it() -> None:
    asked = ("--precision", "bf16", "--after", "choose-precision", *SMALL)
    result = convc("show", "strided", *asked)
    assert "cast(%image) {dtype=bf16} : bf16[N,28,28,1]" in result.stdout
