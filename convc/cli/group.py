"""What all commands share: how errors look, and options that several take."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import IO, TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from convc import __version__
from convc.ir.errors import ConvcError

if TYPE_CHECKING:
    from convc.data.augment import Augmentation
    from convc.data.batches import Splits
    from convc.model import Model
    from convc.optimizers import Optimizer
    from convc.pipeline import Step

Function = TypeVar("Function", bound=Callable[..., Any])

COUNT = click.IntRange(min=1)
"""A whole number from 1."""


_WIDE = 200


class Failure(click.ClickException):
    """An error that ends the command with one line on stderr and no traceback."""

    def show(self, file: IO[Any] | None = None) -> None:
        """Print it as ``error: …``."""
        click.echo(f"error: {self.format_message()}", file=file or sys.stderr)


class Interrupted(Failure):
    """Ctrl-C, with the exit code that shells expect."""

    exit_code = 130


class CommandGroup(click.Group):
    """A group that lists its commands as they were added and reports ConvcErrors.

    With CONVC_DEBUG=1 an error keeps its traceback.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        click.version_option(__version__, message="%(prog)s %(version)s")(self)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order a person meets them."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; what goes wrong becomes a line and an exit code."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            raise Interrupted(str(interrupt) or "interrupted") from None
        except (ConvcError, OSError) as error:
            debug = os.environ.get("CONVC_DEBUG", "0") not in {"", "0"}
            if debug or isinstance(error, BrokenPipeError):  # click ends quietly
                raise
            raise Failure(str(error)) from error


def options(
    *choices: Callable[[Function], Function],
) -> Callable[[Function], Function]:
    """Several click options as one decorator, in their order."""

    def decorate(function: Function) -> Function:
        for option in reversed(choices):
            function = option(function)
        return function

    return decorate


model_argument = click.argument("model")


def _use_lockfile(ctx: click.Context, _: click.Parameter, path: str | None) -> None:
    if path is not None:
        from convc.lockfile import using

        ctx.with_resource(using(path))


lockfile_option = click.option(
    "--lockfile",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    expose_value=False,
    callback=_use_lockfile,
    help="Measured schedules. [default: CONVC_LOCKFILE, ./convc.lock if there]",
)
"""--lockfile, which is in force while the command runs."""


def _kept_as(key: str) -> Callable[[click.Context, click.Parameter, object], None]:
    """A callback that keeps an option's value in click's context."""

    def keep(ctx: click.Context, _: click.Parameter, value: object) -> None:
        ctx.meta[key] = value

    return keep


_PRECISION = "convc.precision"
precision_option = click.option(
    "--precision",
    type=click.Choice(["fp32", "tf32", "bf16", "fp16"]),
    default="fp32",
    show_default=True,
    expose_value=False,
    callback=_kept_as(_PRECISION),
    help="What products are computed in, and values stored as.",
)
"""--precision, which ``load_model`` gives the model."""

_EXACT = "convc.exact"
exact_option = click.option(
    "--exact",
    is_flag=True,
    expose_value=False,
    callback=_kept_as(_EXACT),
    help="Compute convolutions as sums alone, none by transforms.",
)
"""--exact, which ``load_model`` gives the model."""


def asked_exact() -> bool:
    """Whether --exact was given to the command."""
    return bool(click.get_current_context().meta.get(_EXACT, False))


_INTERPRET = "convc.interpret"
"""Where click's context keeps that --interpret was given."""


def _backend(ctx: click.Context, parameter: click.Parameter, name: str) -> str:
    """The backend's name; with --interpret that of triton for the interpreter."""
    if not ctx.meta.get(_INTERPRET):
        return name
    usual = ctx.get_parameter_source(str(parameter.name)) is ParameterSource.DEFAULT
    if not usual and name.partition(":")[0] != "triton":
        raise click.UsageError(f"--interpret is for the backend triton, not {name}")
    return "triton:interpret"


backend_option = options(
    click.option(
        "--backend",
        default="numpy",
        show_default=True,
        callback=_backend,
        help="What runs it: numpy or triton.",
    ),
    click.option(
        "--interpret",
        is_flag=True,
        is_eager=True,  # before --backend, which asks for it
        expose_value=False,
        callback=_kept_as(_INTERPRET),
        help="Run Triton's kernels on the CPU, slowly, in its interpreter.",
    ),
)
"""--backend and --interpret, which is the backend ``triton:interpret``."""

device_option = click.option(
    "--device",
    help="For triton the GPU, say cuda:1; for numpy cpu, or cpu:processes for a "
    "process in place of each thread. [default: cuda, cpu]",
)

batch_option = click.option(
    "--batch", type=COUNT, default=128, show_default=True, help="Images at a time."
)

_threads_option = click.option(
    "--threads", type=COUNT, help="Threads to use. [default: every core]"
)

compile_options = options(
    backend_option,
    batch_option,
    _threads_option,
    precision_option,
    exact_option,
    lockfile_option,
)
"""--backend, --interpret, --batch, --threads, --precision and --exact for the model
that is loaded, and --lockfile, which is in force while they run."""

recipe_compile_options = options(
    backend_option,
    click.option(
        "--batch", type=COUNT, help="Images at a time. [default: the recipe's, or 128]"
    ),
    _threads_option,
    precision_option,
    exact_option,
    lockfile_option,
)
"""The same with the batch of the model's recipe, given as None."""

input_option = click.option(
    "--input",
    "input_type",
    metavar="TYPE",
    help="The type of the image. [default: what the network takes, or f32[N,28,28,1]]",
)

STEPS = ("training", "evaluation", "inference")
"""The programs that a model can be compiled to."""

step_option = click.option(
    "--step",
    type=click.Choice(STEPS),
    default="training",
    show_default=True,
    help="Which of the model's programs.",
)

data_option = click.option(
    "--data",
    metavar="DIR",
    type=click.Path(),
    help="The folder of the data set. [default: CONVC_DATA, and for CIFAR-10 "
    "CONVC_CIFAR10; cache; download]",
)


rule_options = options(
    click.option(
        "--optimizer",
        type=click.Choice(["sgd", "momentum", "adam", "adamw"]),
        help="[default: the recipe's, or adam]",
    ),
    click.option(
        "--learning-rate",
        type=click.FloatRange(min=0),
        help="[default: the recipe's, or the optimizer's own; 0.001 for adam]",
    ),
    click.option(
        "--shifts",
        type=click.IntRange(min=0),
        metavar="PIXELS",
        help="Move each image by up to so many, anew in each epoch. [default: the "
        "recipe's, or 0]",
    ),
)
"""How images are trained on, for ``chosen_rule`` and ``chosen_shifts``."""

limit_options = options(
    click.option(
        "--limit",
        type=COUNT,
        metavar="N",
        help="Train on the first N images alone, for a quick look.",
    ),
    click.option(
        "--test-limit", type=COUNT, metavar="N", help="Test on the first N alone."
    ),
)
"""--limit and --test-limit, for ``limited``."""


def chosen_rule(model: Model, name: str | None, rate: float | None) -> Optimizer:
    """The optimizer of that name, or the recipe's, with the rate if one is given."""
    from convc.optimizers import OPTIMIZERS

    rule: Callable[..., Optimizer] = partial(replace, model.recipe.optimizer)
    if name is not None:
        rule = OPTIMIZERS[name]
    return rule() if rate is None else rule(learning_rate=rate)


def chosen_shifts(pixels: int | None) -> Augmentation | None:
    """The augmentation that is asked for; None if none is, whatever the recipe says."""
    from convc.data.augment import UNCHANGED, Shifts

    if pixels is None:
        return None
    return Shifts(pixels) if pixels else UNCHANGED


def limited(splits: Splits, limit: int | None, test_limit: int | None) -> Splits:
    """The first images of both halves, all where no limit was given."""
    from convc.data.batches import Splits

    train = splits.train if limit is None else splits.train.first(limit)
    test = splits.test if test_limit is None else splits.test.first(test_limit)
    return Splits(train, test)


def load_model(spec: str, input_type: str | None = None) -> Model:
    """The model that MODEL names, in the command's --precision and --exact.

    ModelError as ``loading.load_model``.
    """
    from convc import loading

    context = click.get_current_context(silent=True)
    meta = context.meta if context else {}
    precision, exact = meta.get(_PRECISION, "fp32"), meta.get(_EXACT, False)
    return loading.load_model(spec, input_type, precision, exact)


def step_named(model: Model, name: str) -> Step:
    """The one of the model's programs that has this name in ``STEPS``."""
    from convc import loading

    return loading.step_named(model, name)


@contextmanager
def working() -> Iterator[Callable[[str], None]]:
    """Shows what is being done, as it is told, if stderr is a terminal."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True)
    with console.status("", spinner="line") as line:
        yield lambda what: line.update(escape(what))


def print_table(table: Any, spare: Sequence[str] = ()) -> None:
    """Draw a table on a terminal; anywhere else as text that no width cuts off.

    Where a terminal has no room for it the columns headed ``spare`` are left out, one
    by one until there is, and named.
    """
    from rich.console import Console
    from rich.protocol import rich_cast

    drawn: Any = rich_cast(table)
    console = Console()
    if not console.is_terminal:
        console.width = _WIDE
    unbounded = console.options.update(max_width=sys.maxsize)
    left_out = []
    for heading in spare:
        if console.measure(drawn, options=unbounded).maximum <= console.width:
            break
        drawn.columns = [c for c in drawn.columns if c.header != heading]
        left_out.append(heading)
    console.print(drawn)
    if left_out:
        click.echo(f"no room for: {', '.join(left_out)}")
