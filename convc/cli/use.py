"""Commands that train a network and ask it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from convc.cli.group import (
    COUNT,
    chosen_rule,
    chosen_shifts,
    compile_options,
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
    from convc.model import Model
    from convc.runtime.checkpoint import Tensors

weights_option = click.option(
    "--weights",
    metavar="W",
    required=True,
    type=click.Path(dir_okay=False),
    help="A weight file, as train --weights-out writes it.",
)

_train_options = options(
    click.option("--epochs", type=COUNT, help="[default: the recipe's, or 5]"),
    rule_options,
    click.option(
        "--seed",
        type=click.IntRange(0, 2**63 - 1),
        default=0,
        show_default=True,
        help="What every random number derives from.",
    ),
    limit_options,
    click.option(
        "--run",
        "directory",
        metavar="DIR",
        type=click.Path(file_okay=False, path_type=Path),
        help="A folder for metrics.jsonl and checkpoints.",
    ),
    click.option("--resume", is_flag=True, help="Go on with the run in --run."),
    click.option(
        "--checkpoint-every",
        type=COUNT,
        metavar="STEPS",
        help="Save within epochs too, not just at their ends.",
    ),
    click.option(
        "--weights-out",
        metavar="W",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Where to write the trained weights, a safetensors file.",
    ),
    click.option(
        "--check", is_flag=True, help="Check every pass on small random data."
    ),
    click.option(
        "--steps-per-graph",
        type=COUNT,
        default=1,
        show_default=True,
        help="How many steps are one launch on a GPU.",
    ),
)


@click.command()
@model_argument
@_train_options
@data_option
@recipe_compile_options
@device_option
def train(
    model: str,
    optimizer: str | None,
    learning_rate: float | None,
    shifts: int | None,
    limit: int | None,
    test_limit: int | None,
    directory: Path | None,
    resume: bool,
    checkpoint_every: int | None,
    weights_out: Path | None,
    data: str | None,
    **settings: Any,
) -> None:
    """Train MODEL and test it after each epoch.

    It is trained on MNIST, or on CIFAR-10 if it takes images of 32x32x3. What is not
    given is as the recipe of the network says, if it has one.
    """
    if directory is None and (resume or checkpoint_every):
        raise click.UsageError("--resume and --checkpoint-every need --run DIR")
    if weights_out is not None and not weights_out.absolute().parent.is_dir():
        raise click.UsageError(f"--weights-out: there is no {weights_out.parent}")
    from convc.data.choice import load_for
    from convc.engines import targeted
    from convc.runtime.checkpoint import save_weights
    from convc.runtime.trainer import fit

    settings["backend"] = targeted(settings["backend"], settings["device"])
    loaded = load_model(model)
    splits = load_for(loaded.image.inner, data)
    used = limited(splits, limit, test_limit)
    try:
        history = fit(
            loaded,
            used.train,
            used.test,
            optimizer=chosen_rule(loaded, optimizer, learning_rate),
            augment=chosen_shifts(shifts),
            directory=directory,
            resume=resume,
            checkpoint_every=checkpoint_every,
            **settings,
        )
    except KeyboardInterrupt as interrupt:
        remedy = " (the same command with --resume)" if directory else ""
        raise KeyboardInterrupt(
            f"{interrupt}{remedy}" if str(interrupt) else ""
        ) from None
    if splits.notice:
        click.echo(f"notice: {splits.notice}")
    if weights_out is not None:
        parameters = history.program.parameters
        kept = {name: parameters[name] for name in expected_weights(loaded)}
        save_weights(weights_out, kept, network=model)
        click.echo(f"weights written to {weights_out}")


@click.command()
@model_argument
@weights_option
@data_option
@compile_options
@device_option
def evaluate(
    model: str,
    weights: str,
    data: str | None,
    backend: str,
    batch: int,
    threads: int | None,
    device: str | None,
) -> None:
    """Print a trained model's loss and accuracy on the test images."""
    from convc.data.choice import load_for
    from convc.engines import targeted
    from convc.runtime import evaluation

    backend = targeted(backend, device)
    loaded = load_model(model)
    tensors = read_weights(loaded, weights)
    splits = load_for(loaded.image.inner, data)
    loss, accuracy = evaluation.evaluate(
        loaded,
        splits.test,
        tensors,
        batch=batch,
        backend=backend,
        threads=threads,
        device=device,
    )
    right, images = round(accuracy * len(splits.test)), len(splits.test)
    click.echo(
        f"loss {loss:.4f}  accuracy {100 * accuracy:.2f} % "
        f"({right:,} of {images:,} images of {splits.test.name})"
    )
    if splits.notice:
        click.echo(f"notice: {splits.notice}")


@click.command(options_metavar="--weights W [OPTIONS]")
@click.argument("arguments", metavar="[MODEL] IMAGE...", nargs=-1, required=True)
@weights_option
@compile_options
@device_option
def predict(
    arguments: tuple[str, ...],
    weights: str,
    backend: str,
    batch: int,
    threads: int | None,
    device: str | None,
) -> None:
    """Tell what digit each IMAGE shows (a picture or a .npy file).

    MODEL may be left out where the weight file says which built-in network it is of.
    """
    from convc.cli.images import images_for, prediction_table, read_images
    from convc.networks import built_in
    from convc.runtime import evaluation
    from convc.runtime.checkpoint import weights_network

    spec, *paths = arguments
    if spec not in built_in() and ".py" not in spec:
        spec, paths = "", list(arguments)
    if not paths:
        raise click.UsageError("no image is given")
    loaded = load_model(spec or _recorded(weights, weights_network(weights)))
    tensors = read_weights(loaded, weights)
    names, images = read_images([Path(path) for path in paths])
    images = images_for(loaded.image, images)
    answer = evaluation.predict(
        loaded,
        images,
        tensors,
        batch=min(batch, len(images)),
        backend=backend,
        threads=threads,
        device=device,
    )
    print_table(prediction_table(names, answer))


def _recorded(weights: str, network: str) -> str:
    """The built-in network that a weight file names; a file is never run unasked."""
    from convc.networks import built_in

    if network in built_in():
        return network
    says = f"belongs to {network}" if network else "does not say which network it is of"
    raise click.UsageError(
        f"{weights} {says}; name the model: convc predict MODEL --weights {weights} ..."
    )


def expected_weights(model: Model) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Shape and dtype of every tensor a model's weight file holds, by name.

    They are the parameters and the moving statistics, without what only training has.
    """
    return {
        p.value.name: (p.value.type.bind(1), p.value.type.dtype.numpy)
        for p in model.graph.parameters
        if not p.value.name.startswith("training/")
    }


def read_weights(model: Model, path: str) -> Tensors:
    """The model's weights from a file; CheckpointError if they are another model's."""
    from convc.runtime.checkpoint import load_weights

    return load_weights(path, expected_weights(model))
