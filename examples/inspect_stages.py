"""What each pass of the compiler changes, as a diff of the IR.

Run it with ``python examples/inspect_stages.py``, or name the passes to be shown, as
in ``python examples/inspect_stages.py canonicalize fuse-conv``.
"""

import difflib
import itertools
import sys
from collections.abc import Sequence

import convc as cc


def small(image: cc.Tensor) -> cc.Tensor:
    """One convolution, pooled, and a dense layer: enough to see every pass at work."""
    x = cc.conv2d(image, 8, 3, padding="same", activation="relu", name="conv")
    x = cc.max_pool2d(x, 2, name="pool")
    return cc.dense(cc.flatten(x), 10, name="logits")


def difference(before: str, after: str) -> list[str]:
    """The lines that went and the lines that came, unchanged ones left out."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0)
    return [line for line in lines if not line.startswith(("---", "+++", "@@"))]


def main(wanted: Sequence[str]) -> None:
    """Compile a training step and show the passes that are wanted, or all."""
    model = cc.Model(small, image="f32[N,28,28,1]")
    stages = model.training_step(optimizer=cc.SGD(0.1)).stages(batch=16)
    print(f"traced:\n\n{stages[0].text}")
    for before, stage in itertools.pairwise(stages):
        if wanted and stage.name not in wanted:
            continue
        changed = difference(before.text, stage.text)
        nodes = f"{len(before.graph.nodes)} -> {len(stage.graph.nodes)} nodes"
        print(f"{stage.name}: {nodes}, {1e3 * stage.seconds:.1f} ms")
        for line in changed:
            print(f"  {line}")
        for note in stage.refusals:
            print(f"  not done: {note}")


if __name__ == "__main__":
    main(sys.argv[1:])
