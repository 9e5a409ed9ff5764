"""The same network in PyTorch, as fast as PyTorch runs it.

The torch backend writes its module, images in the memory format channels_last, which is
that of NHWC.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional

from convc.engines.device import Call, Device
from convc.engines.torch_engine import TorchNetwork
from convc.model import Model

MODES = ("reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
"""What torch.compile is asked for; the first two make CUDA graphs themselves."""
RIVALS: Mapping[str, tuple[str, bool]] = {
    "torch eager": ("", False),
    "torch eager, one graph": ("", True),
    "torch.compile reduce-overhead": (MODES[0], False),
    "torch.compile max-autotune": (MODES[1], False),
    "torch.compile, one graph": (MODES[2], True),
}
"""For each rival its mode, and whether all of its step is captured in a CUDA graph."""
COMPILED = tuple(name for name, (mode, _) in RIVALS.items() if mode)


def torch_network(
    model: Model, training: bool, state: Mapping[str, np.ndarray]
) -> torch.nn.Module:
    """A model as the torch backend writes it, its parameters from ``state``.

    It takes an image as convc does and gives a list of the one output.
    """
    graph = model.graph if training else model.inference().traced()
    network = TorchNetwork(graph, "torch:channels_last", own_masks=False)
    network.load(state)
    made: torch.nn.Module = network.network
    return made


class Rival:
    """A network of PyTorch on a device, in a precision, ready to be raced.

    In bf16 a training step runs under autocast, with float32 weights, and inference
    on weights and images that are stored so: what is fastest.
    """

    def __init__(
        self, network: torch.nn.Module, where: Device, precision: str, training: bool
    ) -> None:
        self._where, self._training = where, training
        self._half = torch.bfloat16 if precision == "bf16" else None
        self._network = network.to(where.place).train(training)
        if self._half is not None and not training:
            self._network = self._network.to(self._half)

    def step(self, mode: str, captured: bool, image: Any, labels: Any) -> Call:
        """A call that makes a step on the image, compiled and captured as asked for."""
        if self._training:
            call, kept = self._training_step(mode, image, labels)
        else:
            call, kept = self._inference(mode, image), []
        for _ in range(3):  # what is compiled or chosen once
            call()
        self._where.wait()
        return self._where.captured(call, 1, kept) if captured else call

    def _training_step(self, mode: str, image: Any, labels: Any) -> tuple[Call, Any]:
        on_gpu = not self._where.live
        network, half = self._network, self._half
        trained = [p for p in network.parameters() if p.requires_grad]
        weights = [p.detach() for p in trained]
        optimizer = torch.optim.Adam(trained, 1e-3, fused=True, capturable=on_gpu)
        kind = self._where.place.partition(":")[0]

        def loss(x: Any, y: Any) -> Any:
            with torch.autocast(kind, half, half is not None, cache_enabled=False):
                return functional.cross_entropy(network(x)[0], y)

        function = compiled(loss, mode, on_gpu)

        def step() -> None:
            torch.compiler.cudagraph_mark_step_begin()
            optimizer.zero_grad(set_to_none=True)
            function(image, labels).backward()
            optimizer.step()

        return step, weights

    def _inference(self, mode: str, image: Any) -> Call:
        x = image if self._half is None else image.to(self._half)
        function = compiled(self._network, mode, not self._where.live)

        @torch.inference_mode()
        def step() -> Any:
            torch.compiler.cudagraph_mark_step_begin()
            return function(x)[0]

        return step


def compiled(function: Callable[..., Any], mode: str, on_gpu: bool) -> Any:
    """The function as torch.compile makes it in a mode; as it is for no mode.

    Off a GPU nothing is generated, only traced: that takes no compiler and no minutes.
    """
    if not mode:
        return function
    from torch._inductor import list_mode_options

    assert mode in list_mode_options(), f"torch.compile has no mode {mode}"
    torch._dynamo.reset()  # a mode of its own for each contestant
    if on_gpu:
        return torch.compile(function, mode=mode, dynamic=False)
    return torch.compile(function, backend="aot_eager", dynamic=False)
