"""JAX: the graph as jax.numpy, compiled by XLA."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from convc.ir.graph import Node
from convc.ir.ops.base import Array, ints
from convc.rivals.base import Rules, Runner, imported, rate_of, walked, windows


class Jax(Runner):
    """jax.jit of the network, or of its loss, gradients and Adam in one function."""

    packages = ("jax", "jaxlib")

    def prepare(self) -> Callable[[Array], Any]:
        """The jitted function; XLA's threads are held by the cores of the process."""
        _held_to(self.task.threads)
        jax = imported("jax")
        jnp = jax.numpy

        known = {k: jnp.asarray(a) for k, a in self.state.items()}
        trained = [p.value.name for p in self.graph.parameters if p.trainable]
        weights = {name: known.pop(name) for name in trained}

        def outputs(given: Any, inputs: Any, key: Any) -> Any:
            made = walked(self.graph, _rules(key), known | given | inputs, "JAX")
            return {k: made[v.name] for k, v in self.graph.outputs}

        inputs = {k: jnp.asarray(a) for k, a in self.inputs.items()}
        if self.task.kind == "inference":
            infer = jax.jit(lambda w, x: outputs(w, x, None)["output"])
            return lambda _: infer(weights, inputs).block_until_ready()
        return self._training(weights, inputs, outputs)

    def _training(
        self, weights: dict[str, Any], inputs: dict[str, Any], outputs: Any
    ) -> Callable[[Array], Any]:
        import jax
        import jax.numpy as jnp

        rate, beta1, beta2, epsilon = rate_of(self.model)

        def update(w: Any, m: Any, v: Any, t: Any, given: Any) -> Any:
            key = jax.random.fold_in(jax.random.key(0), t)
            loss, g = jax.value_and_grad(lambda w: outputs(w, given, key)["loss"])(w)
            m = {k: beta1 * m[k] + (1 - beta1) * g[k] for k in w}
            v = {k: beta2 * v[k] + (1 - beta2) * g[k] ** 2 for k in w}
            a, b = 1 - beta1 ** (t + 1.0), 1 - beta2 ** (t + 1.0)
            w = {
                k: w[k] - rate * (m[k] / a) / (jnp.sqrt(v[k] / b) + epsilon) for k in w
            }
            return w, m, v, t + 1, loss

        step = jax.jit(update, donate_argnums=(0, 1, 2))
        zeros = {k: jnp.zeros_like(w) for k, w in weights.items()}
        held: Any = (weights, zeros, {k: jnp.copy(z) for k, z in zeros.items()}, 0)

        def call(labels: Array) -> float:
            nonlocal held
            *kept, loss = step(*held, inputs | {"labels": labels})
            held = tuple(kept)
            return float(loss)

        return call


def _held_to(threads: int) -> None:
    """XLA takes a thread for each core it may use; so it gets as many cores."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def _pairs(node: Node, kernel: tuple[int, ...] | None = None) -> list[tuple[int, int]]:
    return [(axis.before, axis.after) for axis in windows(node, kernel)]


def _rules(key: Any) -> Rules:
    """What each op is in JAX; dropout draws by ``key``."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    def conv(node: Node, x: Any, w: Any) -> Any:
        a = node.attrs
        return lax.conv_general_dilated(
            *(x, w, ints(a["strides"]), _pairs(node, node.operands[1].type.inner[:2])),
            rhs_dilation=ints(a["dilations"]),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=a["groups"],
        )

    def pool(node: Node, x: Any) -> Any:
        window, strides = ints(node.attrs["window"]), ints(node.attrs["strides"])
        pads = [(0, 0), *_pairs(node), (0, 0)]
        return lax.reduce_window(
            *(x, -jnp.inf, lax.max, (1, *window, 1), (1, *strides, 1), pads)
        )

    def entropy(_: Node, logits: Any, labels: Any) -> Any:
        logs = jax.nn.log_softmax(logits)
        return -jnp.take_along_axis(logs, labels[:, None], 1)[:, 0]

    def dropout(node: Node, x: Any, keep: float) -> Any:
        own = jax.random.fold_in(key, len(node.name) + ord(node.name[-1]))
        mask = jax.random.bernoulli(own, keep, x.shape)
        return jnp.where(mask, x * node.attrs["scale"], 0)

    return {
        "conv2d": conv,
        "max_pool2d": pool,
        "bias_add": lambda _, x, b: x + b,
        "add": lambda _, x, y: x + y,
        "relu": lambda _, x: jax.nn.relu(x),
        "matmul": lambda _, a, b: a @ b,
        "reshape": lambda node, x: x.reshape((-1, *node.result.type.inner)),
        "dropout_mask": lambda node, *_: node.attrs["keep"],
        "apply_mask": dropout,
        "softmax_cross_entropy": entropy,
        "reduce_mean": lambda node, x: x.mean(ints(node.attrs["axes"])),
        "reduce_sum": lambda node, x: x.sum(ints(node.attrs["axes"])),
        "argmax": lambda _, x: x.argmax(-1),
        "equal": lambda _, x, y: x == y,
        "cast": lambda node, x: x.astype(node.result.type.dtype.numpy),
    }
