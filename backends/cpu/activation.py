"""Activations of one op, as calls on an array, for all kernels that apply them."""

from convc.backends.cpu.kernel import scalar
from convc.ir.graph import Node


def activate(node: Node, source: str, target: str, work: str) -> list[str]:
    """Calls that apply an activation to ``source`` and leave it in ``target``.

    What comes in between lies in ``work``, which may be either of the two.
    """
    if node.op == "relu":
        return [f"maximum({source}, ZERO, out={target})"]
    if node.op == "tanh":
        return [f"np.tanh({source}, out={target})"]
    assert node.op == "sigmoid", node.op
    half = scalar(0.5, node.result.type.dtype)
    return [
        f"multiply({source}, {half}, out={work})",
        f"np.tanh({work}, out={work})",
        f"multiply({work}, {half}, out={work})",
        f"add({work}, {half}, out={target})",
    ]
