"""At inference dropout is gone and batch norm uses its moving averages."""

import numpy as np
from pass_bench import graph_of, same, stage_after

from convc.ir.interpreter import interpret
from convc.passes.inference import EVALUATE_ONLY

TRAINED = """
graph g(%x: f32[N,4]) -> (y=%b) {
  param %gamma : f32[4] = ones()
  param %beta : f32[4] = zeros()
  state %moving_mean : f32[4] = zeros()
  state %moving_variance : f32[4] = ones()
  state %training/seed : i64[] = seed()
  state %training/step : i64[] = zeros()
  %mask = dropout_mask(%training/seed, %training/step) {shape=[N,4], keep=0.5, stream=3} : bool[N,4]
  %d = apply_mask(%x, %mask) {scale=2.0} : f32[N,4]
  %mean = reduce_mean(%d) {axes=[0]} : f32[4]
  %var = reduce_variance(%d) {axes=[0]} : f32[4]
  %b = batch_norm(%d, %gamma, %beta, %mean, %var) : f32[N,4]
  %m1 = moving_average(%moving_mean, %mean) {momentum=0.9} : f32[4]
  %m2 = moving_average(%moving_variance, %var) {momentum=0.9} : f32[4]
  update %moving_mean = %m1
  update %moving_variance = %m2
}
"""  # noqa: E501
EVALUATED = """
graph g(%x: f32[N,4]) -> (y=%b) {
  param %gamma : f32[4] = ones()
  param %beta : f32[4] = zeros()
  state %moving_mean : f32[4] = zeros()
  state %moving_variance : f32[4] = ones()
  %b = batch_norm(%x, %gamma, %beta, %moving_mean, %moving_variance) : f32[N,4]
}
"""


def test_dropout_and_batch_statistics_are_removed() -> None:
    stage = stage_after(EVALUATE_ONLY, of=TRAINED)
    assert same(stage.graph, EVALUATED)


def test_the_pass_is_checked_against_training_that_keeps_everything() -> None:
    verdict = str(stage_after(EVALUATE_ONLY, of=TRAINED).verdict)
    assert verdict == "as trained, without dropout: equal on 12 values"


def test_one_image_is_judged_alone() -> None:
    """Its result does not depend on the others in the batch, nor on the seed."""
    graph = stage_after(EVALUATE_ONLY, of=TRAINED).graph
    rng = np.random.default_rng(1)
    images = rng.normal(size=(5, 4)).astype(np.float32)
    state = {
        "gamma": np.full(4, 1.5, np.float32),
        "beta": np.full(4, 0.25, np.float32),
        "moving_mean": np.full(4, 0.5, np.float32),
        "moving_variance": np.full(4, 2.0, np.float32),
    }
    together = interpret(graph, {"x": images}, state).outputs["y"]
    for i in range(5):
        alone = interpret(graph, {"x": images[i : i + 1]}, state).outputs["y"]
        assert np.array_equal(alone[0], together[i])


def test_two_dropouts_in_a_row_are_both_removed() -> None:
    text = """
    graph g(%x: f32[N,4]) -> (y=%2, z=%1) {
      state %seed : i64[] = seed()
      state %step : i64[] = zeros()
      %a = dropout_mask(%seed, %step) {shape=[N,4], keep=0.5, stream=3} : bool[N,4]
      %b = dropout_mask(%seed, %step) {shape=[N,4], keep=0.5, stream=4} : bool[N,4]
      %1 = apply_mask(%x, %a) {scale=2.0} : f32[N,4]
      %2 = apply_mask(%1, %b) {scale=2.0} : f32[N,4]
    }
    """
    after = """
    graph g(%x: f32[N,4]) -> (y=%x, z=%x) {
    }
    """
    assert same(stage_after(EVALUATE_ONLY, of=text).graph, after)


def test_a_mask_that_the_user_made_stays() -> None:
    text = """
    graph g(%x: f32[N,4], %mask: bool[N,4]) -> (y=%1) {
      %1 = apply_mask(%x, %mask) {scale=2.0} : f32[N,4]
    }
    """
    assert stage_after(EVALUATE_ONLY, of=text).graph == graph_of(text)


def test_statistics_without_a_moving_average_stay() -> None:
    text = """
    graph g(%x: f32[N,4]) -> (y=%1) {
      %mean = reduce_mean(%x) {axes=[0]} : f32[4]
      %1 = subtract(%x, %mean) : f32[N,4]
    }
    """
    assert stage_after(EVALUATE_ONLY, of=text).graph == graph_of(text)


def test_nothing_is_updated() -> None:
    graph = stage_after(EVALUATE_ONLY, of=TRAINED).graph
    assert graph.updates == ()
    parameters = {p.value.name: np.ones(4, np.float32) for p in graph.parameters}
    feeds = {"x": np.ones((2, 4), np.float32)}
    assert interpret(graph, feeds, parameters).updates == {}


def test_dropout_whose_share_is_an_input_stays() -> None:
    """The program was asked for it; to feed it 1 is to leave it out."""
    text = """
    graph g(%x: f32[N,4], %share: f32[] = 1.0) -> (y=%d) {
      state %training/seed : i64[] = seed()
      state %training/step : i64[] = zeros()
      %m = keep_mask(%training/seed, %training/step, %share) {shape=[N,4], stream=3} : bool[N,4]
      %d = apply_keep(%x, %m, %share) : f32[N,4]
    }
    """  # noqa: E501
    assert same(stage_after(EVALUATE_ONLY, of=text).graph, text)
