"""Networks that come with convc, and loading one from a user's file."""

import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType

from convc.ir.errors import ModelError
from convc.layers import conv2d, dense, dropout, flatten, max_pool2d
from convc.tracing import Tensor

Network = Callable[..., Tensor | Mapping[str, Tensor]]


def two_conv(image: Tensor) -> Tensor:
    """Two convolutions of 5x5, each pooled, and a wide dense layer: 99 % on MNIST."""
    x = conv2d(image, 32, 5, padding="same", activation="relu", name="conv1")
    x = max_pool2d(x, 2, name="pool1")
    x = conv2d(x, 64, 5, padding="same", activation="relu", name="conv2")
    x = max_pool2d(x, 2, name="pool2")
    x = dense(flatten(x), 1024, activation="relu", name="fc")
    x = dropout(x, keep=0.75)
    return dense(x, 10, name="logits")


def four_conv(image: Tensor) -> Tensor:
    """Four convolutions of 3x3 in two pooled pairs, and logits from 7x7x128."""
    x = conv2d(image, 64, 3, padding="same", activation="relu", name="conv1")
    x = conv2d(x, 64, 3, padding="same", activation="relu", name="conv2")
    x = max_pool2d(x, 2, name="pool1")
    x = conv2d(x, 128, 3, padding="same", activation="relu", name="conv3")
    x = conv2d(x, 128, 3, padding="same", activation="relu", name="conv4")
    x = max_pool2d(x, 2, name="pool2")
    return dense(flatten(x), 10, name="logits")


def strided(image: Tensor) -> Tensor:
    """One convolution of 5x5 with stride 2 in place of pooling: small and quick."""
    x = conv2d(image, 16, 5, strides=2, padding="same", activation="relu", name="conv1")
    return dense(flatten(x), 10, name="logits")


NETWORKS: Mapping[str, Network] = MappingProxyType(
    {"two_conv": two_conv, "four_conv": four_conv, "strided": strided}
)
"""Built-in networks, functions of an image f32[N,28,28,1], by name."""

EXAMPLES: Mapping[str, str] = MappingProxyType(
    {
        "cs20si": "cs20si",
        "cs20": "cs20",
        "cs20_layers": "cs20",
        "flat784": "flat784",
        "ltfn5": "ltfn5",
        "ltfn5_sane": "ltfn5",
        "ltfn5_average": "ltfn5",
        "ltfn5_strided": "ltfn5",
        "csci1470": "csci1470",
        "csci1470_cifar": "csci1470",
        "fast": "fast",
    }
)
"""Networks of the examples, built in too: their names, and the example's module."""


def load_network(spec: str) -> tuple[Network, str]:
    """The function that ``spec`` names, and its name.

    ``spec`` is a built-in network, ``file.py:function``, or ``file.py`` if it defines
    one function only. The file is run as Python, with its folder last on sys.path.
    ModelError when there is no such network, file or function, or the file fails.
    """
    if spec in NETWORKS:
        return NETWORKS[spec], spec
    if spec in EXAMPLES:
        return getattr(
            importlib.import_module(f"convc.examples.{EXAMPLES[spec]}"), spec
        ), spec
    file, wanted = spec, ""
    if not spec.endswith(".py"):
        file, _, wanted = spec.rpartition(":")
    if not file.endswith(".py"):
        raise ModelError(
            f"no network is called {spec!r}; built in are "
            f"{', '.join(built_in())}, your own is written file.py:function"
        )
    path = Path(file)
    if not path.is_file():
        raise ModelError(f"there is no file {path} (looked for it in {Path.cwd()})")
    return _chosen(_module(path), path, wanted)


def built_in() -> tuple[str, ...]:
    """The names that ``load_network`` knows."""
    return (*NETWORKS, *EXAMPLES)


def _chosen(module: ModuleType, path: Path, wanted: str) -> tuple[Network, str]:
    defined = {
        name: function
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and not name.startswith("_")
    }
    listed = ", ".join(defined) or "none"
    if not wanted:
        if len(defined) != 1:
            raise ModelError(
                f"{path} must define one function to be used without a name, it "
                f"defines {listed}; write {path}:function"
            )
        (wanted,) = defined
    function = getattr(module, wanted, None)
    if not callable(function):
        raise ModelError(f"{path} has no function {wanted!r}; it defines {listed}")
    return function, wanted


def _module(path: Path) -> ModuleType:
    """The module that a user's file makes when it is run."""
    full = path.absolute()
    if str(full.parent) not in sys.path:
        sys.path.append(str(full.parent))
    name = f"network_{full.stem}"
    spec = importlib.util.spec_from_file_location(name, full)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ModelError(f"{path} failed: {failure(error, full)}") from error
    return module


def failure(error: Exception, path: Path | None) -> str:
    """The error, and the last line of ``path`` on the way to it."""
    line = error.lineno if isinstance(error, SyntaxError) else None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    where = f"\n  at {path}:{line}" if line else ""
    return f"{type(error).__name__}: {message}{where}"
