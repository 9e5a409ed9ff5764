"""Recipes: how a network is trained if nothing else is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from convc.data.augment import UNCHANGED, Augmentation
from convc.optimizers import RUNTIME, Adam, Optimizer
from convc.places import mistake

Function = TypeVar("Function", bound=Callable[..., object])

_ADAM = Adam(1e-3)


@dataclass(frozen=True)
class Recipe:
    """What a training run is that is told nothing: for how long, in what steps.

    Its defaults are those of all networks that have no recipe. ModelError for what
    cannot be meant.
    """

    epochs: int = 5
    batch: int = 128
    optimizer: Optimizer = _ADAM
    augment: Augmentation = UNCHANGED

    def __post_init__(self) -> None:
        for name, value in ("epochs", self.epochs), ("batch", self.batch):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise mistake(
                    f"recipe: {name} must be a whole number from 1, got {value!r}"
                )
        kinds = ("optimizer", Optimizer), ("augment", Augmentation)
        for name, kind in kinds:
            if not isinstance(value := getattr(self, name), kind):
                raise mistake(
                    f"recipe: {name} must be an {kind.__name__}, got {value!r}"
                )

    def but(self, **asked: Any) -> Recipe:
        """The recipe with what is asked for in place of its own; None asks nothing."""
        return replace(self, **{k: v for k, v in asked.items() if v is not None})


def recipe(
    *,
    epochs: int = Recipe.epochs,
    batch: int = Recipe.batch,
    optimizer: Optimizer = Recipe.optimizer,
    augment: Augmentation = Recipe.augment,
) -> Callable[[Function], Function]:
    """Declares how a network is trained, for ``fit`` and the command line alike.

    ``@recipe(epochs=10, optimizer=Adam(CosineDecay(2e-3, 4690)), augment=Shifts(1))``
    above the network; a schedule counts steps, of which an epoch of n images has
    n / batch. What is asked for explicitly wins over it. See ``Recipe``.
    """
    chosen = Recipe(epochs, batch, optimizer, augment)
    if optimizer.learning_rate == RUNTIME:
        raise mistake(
            "recipe: nothing feeds a learning rate at run time; give the optimizer "
            "a number or a schedule"
        )

    def declare(network: Function) -> Function:
        network.recipe = chosen  # type: ignore[attr-defined]
        return network

    return declare


def recipe_of(network: Callable[..., object]) -> Recipe:
    """How a network says that it is trained; as all are if it says nothing."""
    found = getattr(network, "recipe", None)
    return found if isinstance(found, Recipe) else Recipe()
