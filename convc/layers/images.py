"""Where images have their channels: layers compute NHWC and are asked in either.

``NCHW`` is written as a transpose before the layer and its inverse after it; between
two such layers the two cancel in ``canonicalize``.
"""

from convc.layers import arguments as args
from convc.tracing import Tensor

_LAST, _FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


def channels_last(layer: str, inputs: object, form: object) -> tuple[Tensor, str]:
    """The images as f32[N,H,W,C], and the data format they came in.

    TypeRuleError for what is no tensor of 4 axes, or no data format.
    """
    known = args.data_format(layer, form)
    x = args.tensor(layer, "inputs", inputs, rank=4)
    if known == "NCHW":
        x = x.trace.emit("transpose", x, perm=_LAST)
    return x, known


def as_given(y: Tensor, form: str) -> Tensor:
    """f32[N,H,W,C] in the data format that the inputs had."""
    return y.trace.emit("transpose", y, perm=_FIRST) if form == "NCHW" else y
