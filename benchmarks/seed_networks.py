"""The networks that five course notes on convolution train, and those they point at.

Each is a function of an image and of ``thin``, by which every width is divided so that
a check is quick: 1 is the network of the note.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import convc as cc
from convc.model import Model
from convc.tracing import Tensor

Body = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class SeedNetwork:
    """A network, the type of its full image and that of a small one."""

    body: Body
    full: str = "f32[N,28,28,1]"
    small: str = "f32[N,8,8,1]"

    def model(self, name: str, thin: int = 1) -> Model:
        """The network of the note, or with ``thin`` above 1 a small one like it."""
        image = self.full if thin == 1 else self.small
        return Model(partial(self.body, thin=thin), name=name, image=image)


def convnet_in_scopes(image: Tensor, thin: int) -> Tensor:
    """Note of 2017: variables by name in scopes, normal biases, one matrix product."""
    x = image
    for scope, filters in (("conv1", 32 // thin), ("conv2", 64 // thin)):
        with cc.variable_scope(scope):
            shape = (5, 5, x.shape[-1], filters)
            w = cc.get_variable("weights", shape)
            b = cc.get_variable("biases", (filters,), cc.normal(1.0))
            x = cc.relu(cc.bias_add(cc.convolve(x, w, padding="same"), b))
        x = cc.max_pool2d(x, 2)
    x = cc.dense(cc.flatten(x), 1024 // thin, activation="relu", name="fc")
    x = cc.dropout(x, keep=0.75)
    return cc.dense(x, 10, name="softmax_linear")


def convnet(image: Tensor, thin: int) -> Tensor:
    """Note of 2018: two pooled convolutions of 5x5, a wide layer with dropout."""
    x = cc.conv2d(image, 32 // thin, 5, padding="same", activation="relu", name="conv1")
    x = cc.max_pool2d(x, 2, 2, name="pool1")
    x = cc.conv2d(x, 64 // thin, 5, padding="same", activation="relu", name="conv2")
    x = cc.max_pool2d(x, 2, 2, name="pool2")
    x = cc.dense(cc.flatten(x), 1024 // thin, activation="relu", name="fc")
    x = cc.dropout(x, keep=0.75, name="dropout")
    return cc.dense(x, 10, name="logits")


def four_convolutions(image: Tensor, thin: int) -> Tensor:
    """Four convolutions of 3x3 in two pooled pairs."""
    return _two_stages(image, thin, lambda x: cc.max_pool2d(x, 2))


def averaged(image: Tensor, thin: int) -> Tensor:
    """The same with average pooling."""
    return _two_stages(image, thin, lambda x: cc.avg_pool2d(x, 2))


def all_convolutional(image: Tensor, thin: int) -> Tensor:
    """The same with convolutions of stride 2 in place of pooling."""

    def halve(x: Tensor) -> Tensor:
        filters = x.shape[-1]
        assert isinstance(filters, int)
        return cc.conv2d(x, filters, 3, 2, padding="same", activation="relu")

    return _two_stages(image, thin, halve)


def _two_stages(image: Tensor, thin: int, halve: Callable[[Tensor], Tensor]) -> Tensor:
    x = image
    for filters in (64 // thin, 128 // thin):
        x = cc.conv2d(x, filters, 3, padding="same", activation="relu")
        x = cc.conv2d(x, filters, 3, padding="same", activation="relu")
        x = halve(x)
    return cc.dense(cc.flatten(x), 10, name="logits")


def from_flat_pixels(image: Tensor, thin: int) -> Tensor:
    """The network of 784 pixels in a row, which it reshapes; all weights are normal."""
    size = 28 if thin == 1 else 8
    x = cc.reshape(image, (None, size, size, 1))
    return convnet(x, thin)


def strided_color(image: Tensor, thin: int) -> Tensor:
    """One layer of 16 filters [5,5,3] with stride 2 on color images, then logits."""
    x = cc.conv2d(image, 16 // thin, 5, 2, padding="same", activation="relu")
    return cc.dense(cc.flatten(x), 10, name="logits")


def normalized(image: Tensor, thin: int) -> Tensor:
    """Strides in place of pooling, and batch norm before each ReLU."""
    x = image
    for filters in (16 // thin, 32 // thin):
        x = cc.conv2d(x, filters, 3, 2, padding="same", use_bias=False)
        x = cc.relu(cc.batch_norm(x, momentum=0.9))
    return cc.dense(cc.global_avg_pool2d(x), 10, name="logits")


def residual(image: Tensor, thin: int) -> Tensor:
    """Two blocks that add their input to what two convolutions make of it."""
    x = cc.conv2d(image, 16 // thin, 3, padding="same", activation="relu")
    for _ in range(2):
        y = cc.conv2d(x, 16 // thin, 3, padding="same", activation="relu")
        y = cc.conv2d(y, 16 // thin, 3, padding="same")
        x = cc.relu(cc.add(x, y))
    x = cc.max_pool2d(x, 2)
    return cc.dense(cc.flatten(x), 10, name="logits")


def separable(image: Tensor, thin: int) -> Tensor:
    """A filter per channel, then one across channels, as a note names them."""
    x = cc.conv2d(image, 8 // thin, 3, padding="same", activation="relu")
    x = cc.conv2d(x, 8 // thin, 3, padding="same", groups=8 // thin, use_bias=False)
    x = cc.conv2d(x, 16 // thin, 1, activation="relu")
    return cc.dense(cc.flatten(cc.max_pool2d(x, 2)), 10, name="logits")


SEED_NETWORKS: Mapping[str, SeedNetwork] = {
    "convnet_in_scopes": SeedNetwork(convnet_in_scopes),
    "convnet": SeedNetwork(convnet),
    "four_convolutions": SeedNetwork(four_convolutions),
    "averaged": SeedNetwork(averaged),
    "all_convolutional": SeedNetwork(all_convolutional),
    "from_flat_pixels": SeedNetwork(from_flat_pixels, "f32[N,784]", "f32[N,64]"),
    "strided_color": SeedNetwork(strided_color, "f32[N,32,32,3]", "f32[N,7,7,3]"),
    "normalized": SeedNetwork(normalized),
    "residual": SeedNetwork(residual),
    "separable": SeedNetwork(separable),
}
"""All of them by name."""
