"""A network says how it is trained, and who asks for nothing else trains it so."""

from typing import Any

import pytest

from convc.data.augment import UNCHANGED, Shifts
from convc.ir.errors import ModelError
from convc.layers import dense
from convc.model import Model
from convc.optimizers import RUNTIME, SGD, Adam
from convc.recipes import Recipe, recipe, recipe_of
from convc.tracing import Tensor


def plain(x: Tensor) -> Tensor:
    return dense(x, 2, name="logits")


@recipe(epochs=3, optimizer=SGD(0.5))
def cooked(x: Tensor) -> Tensor:
    return plain(x)


def test_a_network_without_a_recipe_is_trained_as_all_are() -> None:
    assert recipe_of(plain) == Recipe(5, 128, Adam(0.001), UNCHANGED)


def test_what_a_recipe_leaves_out_is_as_for_all() -> None:
    assert recipe_of(cooked) == Recipe(3, 128, SGD(0.5), UNCHANGED)
    assert Model(cooked, x="f32[N,3]").recipe == recipe_of(cooked)


def test_the_training_step_has_the_optimizer_of_the_recipe() -> None:
    def ops(**asked: Any) -> set[str]:
        step = Model(cooked, x="f32[N,3]").training_step(**asked)
        return {n.op for stage in step.stages(batch=2) for n in stage.graph.nodes}

    assert "sgd" in ops()
    assert "adam" in ops(optimizer=Adam())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": 0}, "recipe: epochs must be a whole number from 1, got 0"),
        ({"batch": 1.5}, "recipe: batch must be a whole number from 1, got 1.5"),
        ({"optimizer": 0.1}, "recipe: optimizer must be an Optimizer, got 0.1"),
        ({"augment": 2}, "recipe: augment must be an Augmentation, got 2"),
        ({"optimizer": Adam(RUNTIME)}, "recipe: nothing feeds a learning rate at run"),
    ],
)
def test_a_recipe_that_cannot_be_meant_is_refused_where_it_is_written(
    wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        recipe(**wrong)
    assert "test_recipes.py:" in str(caught.value)


def test_an_augmentation_is_compared_by_what_it_does() -> None:
    assert Recipe(augment=Shifts(1)) == Recipe(augment=Shifts(1))
    assert Recipe(augment=Shifts(1)) != Recipe(augment=Shifts(2))
