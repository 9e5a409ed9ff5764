"""TensorFlow: the graph as tf.nn, in a tf.function, with Keras's Adam."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from convc.ir.errors import CompileError
from convc.ir.graph import Node
from convc.ir.ops.base import Array, ints
from convc.rivals.base import Rules, Runner, imported, rate_of, walked, windows


class TensorFlow(Runner):
    """A tf.function of the network, or of its loss, gradients and update."""

    packages = ("tensorflow", "tensorflow-cpu", "keras")

    def prepare(self) -> Callable[[Array], Any]:
        """The function, its threads held to those of the task."""
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
        tf = imported("tensorflow")
        tf.config.threading.set_intra_op_parallelism_threads(self.task.threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        fixed = {k: tf.constant(a) for k, a in self.state.items()}
        inputs = {k: tf.constant(a) for k, a in self.inputs.items()}
        trained = [p.value.name for p in self.graph.parameters if p.trainable]
        weights = {name: tf.Variable(self.state[name]) for name in trained}

        def outputs(given: Any) -> Any:
            made = walked(self.graph, _rules(), fixed | weights | given, "TensorFlow")
            return {k: made[v.name] for k, v in self.graph.outputs}

        if self.task.kind == "inference":
            infer = tf.function(lambda given: outputs(given)["output"])
            return lambda _: infer(inputs).numpy()
        rate, beta1, beta2, epsilon = rate_of(self.model)
        adam = tf.keras.optimizers.Adam(rate, beta1, beta2, epsilon)
        listed = list(weights.values())
        adam.build(listed)

        def update(given: Any) -> Any:
            with tf.GradientTape() as tape:
                loss = outputs(given)["loss"]
            adam.apply(tape.gradient(loss, listed), listed)
            return loss

        step = tf.function(update)
        return lambda labels: float(step(inputs | {"labels": tf.constant(labels)}))


def _padding(node: Node, kernel: tuple[int, ...] | None = None) -> Any:
    """SAME and VALID by their names, which mean the same; else the pads."""
    if node.attrs["padding"] in ("same", "valid"):
        return str(node.attrs["padding"]).upper()
    pads = [[axis.before, axis.after] for axis in windows(node, kernel)]
    return [[0, 0], *pads, [0, 0]]


def _rules() -> Rules:
    """What each op is in TensorFlow."""
    import tensorflow as tf

    def conv(node: Node, x: Any, w: Any) -> Any:
        if node.attrs["groups"] != 1:
            raise CompileError("grouped convolution is not written for TensorFlow here")
        padding = _padding(node, node.operands[1].type.inner[:2])
        strides, dilations = ints(node.attrs["strides"]), ints(node.attrs["dilations"])
        return tf.nn.conv2d(x, w, strides, padding, dilations=dilations)

    def pool(node: Node, x: Any) -> Any:
        sizes = ints(node.attrs["window"]), ints(node.attrs["strides"])
        return tf.nn.max_pool2d(x, *sizes, _padding(node))

    return {
        "conv2d": conv,
        "max_pool2d": pool,
        "bias_add": lambda _, x, b: tf.nn.bias_add(x, b) if len(x.shape) > 1 else x + b,
        "add": lambda _, x, y: x + y,
        "relu": lambda _, x: tf.nn.relu(x),
        "matmul": lambda _, a, b: tf.matmul(a, b),
        "reshape": lambda node, x: tf.reshape(x, (-1, *node.result.type.inner)),
        "dropout_mask": lambda node, *_: node.attrs["keep"],
        "apply_mask": lambda _, x, keep: tf.nn.dropout(x, 1 - keep),
        "softmax_cross_entropy": lambda _, x, labels: (
            tf.nn.sparse_softmax_cross_entropy_with_logits(labels, x)
        ),
        "reduce_mean": lambda node, x: tf.reduce_mean(x, ints(node.attrs["axes"])),
        "reduce_sum": lambda node, x: tf.reduce_sum(x, ints(node.attrs["axes"])),
        "argmax": lambda _, x: tf.argmax(x, -1, tf.int32),
        "equal": lambda _, x, y: tf.equal(x, y),
        "cast": lambda node, x: tf.cast(x, node.result.type.dtype.numpy),
    }
