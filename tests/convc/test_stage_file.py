"""A stage in a file goes on where it stands, and ends as the program it came from."""

from pathlib import Path

import numpy as np
import pytest

from convc.dump import stage_files
from convc.ir.errors import CompileError
from convc.ir.parser import parse
from convc.model import Model
from convc.networks import NETWORKS
from convc.pipeline import Step
from convc.stage_file import (
    PIPELINES,
    batch_of,
    random_inputs,
    read_stage,
    rest,
    state_of,
)

STEPS = ("training", "evaluation", "inference")


def step_of(name: str, kind: str) -> Step:
    model = Model(NETWORKS[name], image="f32[N,8,8,1]")
    return {
        "training": model.training_step,
        "evaluation": model.evaluation_step,
        "inference": model.inference,
    }[kind]()


def written(folder: Path, name: str = "strided", kind: str = "training") -> list[Path]:
    """The stages of a program as files in a folder."""
    folder.mkdir()
    files = stage_files(step_of(name, kind).stages(batch=3, threads=1))
    for file, text in files.items():
        (folder / file).write_text(text, "utf-8")
    return [folder / file for file in files]


@pytest.mark.parametrize("kind", ["training", "inference"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_stage_goes_on_to_the_same_program(
    tmp_path: Path, name: str, kind: str
) -> None:
    source = step_of(name, kind).compile(batch=3, threads=1).source
    for path in written(tmp_path / f"01-{name}-{kind}", name, kind):
        resumed = rest(read_stage(path), path).compile(batch=3, threads=1)
        assert resumed.source == source, path.name


@pytest.mark.parametrize("kind", STEPS)
def test_the_pipelines_are_those_that_models_are_compiled_with(kind: str) -> None:
    names = [p.name for p in PIPELINES[kind]]
    assert names == [p.name for p in step_of("strided", kind).passes]


@pytest.mark.parametrize("folder", ["01-net-training", "training.ir", "training"])
def test_the_folder_says_which_pipeline(tmp_path: Path, folder: str) -> None:
    path = written(tmp_path / folder)[0]
    names = [p.name for p in rest(read_stage(path), path).passes]
    assert names == [p.name for p in PIPELINES["training"]]


def test_where_pipelines_part_and_nothing_says_which_it_is_asked_for(
    tmp_path: Path,
) -> None:
    first, *_, last = written(tmp_path / "stages")
    graph = read_stage(first)
    with pytest.raises(CompileError, match="goes on from trace in another way than"):
        rest(graph, first)
    for kind in STEPS:
        passes = rest(graph, first, kind=kind).passes
        assert passes == PIPELINES[kind]
    assert rest(read_stage(last), last).passes == ()


def test_a_pass_that_is_given_goes_before_the_files_name(tmp_path: Path) -> None:
    path = written(tmp_path / "01-strided-training")[0]
    names = [p.name for p in rest(read_stage(path), path, "apply-optimizer").passes]
    assert names[:2] == ["simplify", "fuse-conv"]


def test_an_unknown_pass_is_refused_with_those_there_are(tmp_path: Path) -> None:
    path = written(tmp_path / "stages")[0]
    with pytest.raises(CompileError, match="is called 'magic'; those that are: appl"):
        rest(read_stage(path), path, "magic")
    with pytest.raises(CompileError, match="no pass of inference is called 'simpl"):
        rest(read_stage(path), path, "simplify", "inference")


def test_a_pipeline_that_is_given_is_never_passed_over(tmp_path: Path) -> None:
    """Neither by a name that says no pass, nor by one of another pipeline's."""
    first, *_, last = written(tmp_path / "01-strided-training")
    other = first.rename(tmp_path / "mine.ir")
    graph = read_stage(other)
    with pytest.raises(CompileError, match=r"mine\.ir: the name does not say which"):
        rest(graph, other, kind="inference")
    assert rest(graph, other, "trace", "inference").passes == PIPELINES["inference"]
    differentiated = last.parent / "05-differentiate.ir"
    with pytest.raises(CompileError, match="no pass of inference is called 'differen"):
        rest(read_stage(differentiated), differentiated, kind="inference")


def test_a_file_of_another_name_goes_on_where_its_stage_says(tmp_path: Path) -> None:
    """Ops are fused, kernels scheduled, a plan is kept; no pass is done twice."""
    source = step_of("two_conv", "training").compile(batch=3, threads=1).source
    found = {}
    for path in written(tmp_path / "01-two_conv-training", "two_conv"):
        name = path.name[3:-3]
        other = path.rename(tmp_path / f"{name}.ir")
        step = rest(read_stage(other), other)
        found[name] = [p.name for p in step.passes]
        if step.graph.stage != "tensor":
            assert step.compile(batch=3, threads=1).source == source
    assert found["simplify"][0] == found["fuse-conv"][0]
    assert found["simplify"][-1] == "plan-memory"
    assert found["form-kernels"][0] == "choose-layout"
    assert found["choose-layout"][0] == "choose-schedule"
    assert found["plan-memory"] == []


def test_passes_that_do_not_take_the_stage_are_left_out(tmp_path: Path) -> None:
    path = written(tmp_path / "stages")[-4]  # behind form-kernels, as it should be
    graph = read_stage(path)
    assert graph.stage == "kernel"
    step = rest(graph, path, "apply-optimizer")
    assert step.passes[0].name == "choose-layout"


def test_what_does_not_parse_is_shown_in_its_file(tmp_path: Path) -> None:
    path = tmp_path / "a.ir"
    path.write_text("graph g(%x: f32[N]) -> (y=%1) {\n  %1 = exp(%z) : f32[N]\n}\n")
    with pytest.raises(CompileError) as caught:
        read_stage(path)
    assert str(caught.value) == (
        f"{path}:2:12: %z is not defined here\n"
        "    %1 = exp(%z) : f32[N]\n"
        "             ^"
    )


def test_what_is_not_legal_is_underlined(tmp_path: Path) -> None:
    path = tmp_path / "a.ir"
    path.write_text("graph g(%x: f32[N]) -> (y=%1) {\n  %1 = exp(%x) : f32[N,2]\n}\n")
    rule = "its rule gives f32"
    with pytest.raises(CompileError, match=rf"a\.ir: exp: {rule}(.|\n)*\n  \^\^\^"):
        read_stage(path)


def test_a_first_value_that_no_rule_gives_is_underlined(tmp_path: Path) -> None:
    path = tmp_path / "a.ir"
    text = "graph g() -> (y=%w) {\n  param %w : f32[2] = "
    path.write_text(f"{text}glorot()\n}}\n")
    rule = "%w: unknown initializer 'glorot', known: constant, "
    with pytest.raises(CompileError, match=rf"a\.ir: {rule}(.|\n)*\n  \^\^\^"):
        read_stage(path)
    path.write_text(f"{text}zeros(value=3)\n}}\n")
    with pytest.raises(CompileError, match=r"%w: zeros: has no argument 'value'\n"):
        read_stage(path)


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_what_is_no_text_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.ir"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CompileError, match=r"a\.ir: cannot be read"):
        read_stage(path)


def test_the_batch_is_that_of_the_plan_or_of_the_schedules(tmp_path: Path) -> None:
    batches = [batch_of(read_stage(p)) for p in written(tmp_path / "01-net-training")]
    assert batches[-2:] == [3, 3]
    assert batches[0] is None


def test_random_inputs_fit_and_labels_name_classes() -> None:
    graph = step_of("strided", "training").graph
    inputs = random_inputs(graph, 200)
    assert inputs["image"].shape == (200, 8, 8, 1)
    assert inputs["image"].dtype == np.float32
    assert 0 <= inputs["image"].min() < inputs["image"].max() < 1
    assert set(inputs["labels"]) == set(range(10))
    again, other = random_inputs(graph, 200), random_inputs(graph, 200, seed=1)
    assert np.array_equal(inputs["image"], again["image"])
    assert not np.array_equal(inputs["image"], other["image"])


def test_the_state_is_the_initial_one_but_for_the_weights_given() -> None:
    graph = step_of("strided", "inference").graph
    kernel = np.ones((5, 5, 1, 16), np.float32)
    state = state_of([graph], {"conv1/kernel": kernel}, seed=3)
    assert state.keys() == {p.value.name for p in graph.parameters}
    assert np.array_equal(state["conv1/kernel"], kernel)
    assert state["logits/kernel"].any()


def test_what_a_stage_feeds_itself_is_not_drawn() -> None:
    graph = parse("graph g(%x: f32[N,4], %p: f32[] = 0.75) -> (y=%x) {}")
    inputs = random_inputs(graph, 3)
    assert (inputs["x"].shape, float(inputs["p"])) == ((3, 4), 0.75)
