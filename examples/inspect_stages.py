"""What each pass of the compiler changes and declines to change, and where memory goes.

Run it with ``python examples/inspect_stages.py``, or name the passes to be shown, as
in ``python examples/inspect_stages.py canonicalize fuse-conv``. ``convc show --diff``
prints the same for any model; this is how a program asks.
"""

import itertools
import sys
from collections.abc import Sequence

import convc as cc
from convc.diff import Change, diff


def small(image: cc.Tensor) -> cc.Tensor:
    """One convolution, pooled, and a dense layer: enough to see every pass at work."""
    x = cc.conv2d(image, 8, 3, padding="same", activation="relu", name="conv")
    x = cc.max_pool2d(x, 2, name="pool")
    return cc.dense(cc.flatten(x), 10, name="logits")


def described(change: Change) -> str:
    """One line: ``fused      conv2d %1  -> conv_bias_pool_relu``."""
    line = f"{change.kind:<10} {change.subject} {change.key}".rstrip()
    if change.kind in ("added", "deleted"):
        return line
    return f"{line}  {f'{change.old} -> {change.new}'.strip()}"


def main(wanted: Sequence[str]) -> None:
    """Compile a training step and show the passes that are wanted, or all."""
    model = cc.Model(small, image="f32[N,28,28,1]")
    program = model.training_step(optimizer=cc.SGD(0.1)).compile(batch=16)
    print(f"traced:\n\n{program.stages[0].text}")
    for before, stage in itertools.pairwise(program.stages):
        if wanted and stage.name not in wanted:
            continue
        nodes = f"{len(before.graph.nodes)} -> {len(stage.graph.nodes)} nodes"
        print(f"{stage.name}: {nodes}, {1e3 * stage.seconds:.1f} ms")
        for change in diff(before.graph, stage.graph):
            print(f"  {described(change)}")
        for refusal in stage.refusals:
            print(f"  not done   {refusal}")
    print(f"\n{program.memory}\n{program.memory.peak}")


if __name__ == "__main__":
    main(sys.argv[1:])
