"""A model, and its programs, by what the command line calls them."""

from typing import Any

from convc.ir.errors import ConvcError, ModelError
from convc.model import Fed, Model, inputs_of
from convc.networks import failure, load_network
from convc.pipeline import Step
from convc.places import file_of


def load_model(
    spec: str,
    input_type: str | None = None,
    precision: str = "fp32",
    exact: bool = False,
) -> Model:
    """The model that ``spec`` names, as ``networks.load_network`` takes it, traced.

    ``input_type`` is the type of its image, if not what the network says. ModelError
    if there is none, or where the network's own code raises an exception.
    """
    network, name = load_network(spec)
    inputs: dict[str, Any] = inputs_of(network)
    if input_type is not None:
        image = next(k for k, kind in inputs.items() if not isinstance(kind, Fed))
        inputs[image] = input_type
    model = Model(network, name=name, precision=precision, exact=exact, **inputs)
    try:
        _ = model.graph  # a mistake is reported before anything is done
    except ConvcError:
        raise
    except Exception as error:
        wrong = failure(error, file_of(network))
        raise ModelError(f"{name} failed: {wrong}") from error
    return model


def step_named(model: Model, name: str) -> Step:
    """The training, evaluation or inference of a model."""
    if name == "training":
        return model.training_step()
    return model.evaluation_step() if name == "evaluation" else model.inference()
