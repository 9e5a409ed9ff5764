"""ONNX Runtime and OpenVINO: the network as an ONNX model, inference only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from convc.ir.graph import Graph, Node
from convc.ir.ops.base import Array, ints
from convc.rivals.base import Runner, imported, unwritten, windows

OPSET = 17
IMAGE = 4
"""Axes of what ONNX stores as [n, c, h, w]."""


def onnx_model(graph: Graph, state: Mapping[str, Array], batch: int) -> Any:
    """The network for exactly ``batch`` images, given as [n, c, h, w].

    CompileError for an op that is not written here.
    """
    return _Model(graph, state, batch).built()


class _Model:
    def __init__(self, graph: Graph, state: Mapping[str, Array], batch: int) -> None:
        self._graph, self._state, self._batch = graph, state, batch
        self._nodes: list[Any] = []
        self._weights: dict[str, Array] = {}
        self._helper = imported("onnx").helper

    def built(self) -> Any:
        """Every node written."""
        onnx, helper = imported("onnx"), self._helper
        for node in self._graph.nodes:
            write = getattr(self, f"_{node.op}", None)
            if write is None:
                raise unwritten(node, "ONNX")
            write(node)
        (image,) = self._graph.inputs
        ((_, output),) = self._graph.outputs
        kind = onnx.TensorProto.FLOAT
        made = helper.make_graph(
            self._nodes,
            "network",
            [helper.make_tensor_value_info(image.name, kind, self._stored(image))],
            [helper.make_tensor_value_info(output.name, kind, self._stored(output))],
            [onnx.numpy_helper.from_array(a, k) for k, a in self._weights.items()],
        )
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(made, opset_imports=opsets, ir_version=8)
        onnx.checker.check_model(model)
        return model

    def _stored(self, value: Any) -> list[int]:
        shape = list(value.type.bind(self._batch))
        return [shape[0], shape[3], *shape[1:3]] if len(shape) == IMAGE else shape

    def _add(self, op: str, node: Node, *inputs: str, **attrs: Any) -> None:
        self._nodes.append(self._helper.make_node(op, inputs, [node.name], **attrs))

    def _weight(self, name: str, array: Array) -> str:
        self._weights[name] = np.ascontiguousarray(array)
        return name

    def _conv2d(self, node: Node) -> None:
        x, w = node.operands
        kernel = w.type.inner[:2]
        weight = self._weight(w.name, self._state[w.name].transpose(3, 2, 0, 1))
        rows, columns = windows(node, kernel)
        attrs = {
            "kernel_shape": kernel,
            "strides": ints(node.attrs["strides"]),
            "dilations": ints(node.attrs["dilations"]),
            "group": node.attrs["groups"],
            "pads": (rows.before, columns.before, rows.after, columns.after),
        }
        self._add("Conv", node, x.name, weight, **attrs)

    def _max_pool2d(self, node: Node) -> None:
        rows, columns = windows(node)
        pads = (rows.before, columns.before, rows.after, columns.after)
        sizes = {k: ints(node.attrs[v]) for k, v in _POOL.items()}
        self._add("MaxPool", node, node.operands[0].name, pads=pads, **sizes)

    def _bias_add(self, node: Node) -> None:
        x, b = node.operands
        array = self._state[b.name]
        if x.type.rank == IMAGE:
            array = array.reshape(-1, 1, 1)
        self._add("Add", node, x.name, self._weight(b.name, array))

    def _relu(self, node: Node) -> None:
        self._add("Relu", node, node.operands[0].name)

    def _matmul(self, node: Node) -> None:
        x, w = node.operands
        self._add("MatMul", node, x.name, self._weight(w.name, self._state[w.name]))

    def _reshape(self, node: Node) -> None:
        (x,) = node.operands
        name = x.name
        if x.type.rank == IMAGE:
            name = f"{node.name}.nhwc"
            turned = self._helper.make_node(
                "Transpose", [x.name], [name], perm=(0, 2, 3, 1)
            )
            self._nodes.append(turned)
        shape = np.array(node.result.type.bind(self._batch), np.int64)
        self._add("Reshape", node, name, self._weight(f"{node.name}.shape", shape))


_POOL = {"kernel_shape": "window", "strides": "strides"}


class OnnxRuntime(Runner):
    """A session of ONNX Runtime on the CPU."""

    packages = ("onnxruntime", "onnx")

    def prepare(self) -> Callable[[Array], Any]:
        """A session with as many threads as the task has."""
        runtime = imported("onnxruntime")
        model = onnx_model(self.graph, self.state, self.task.batch)
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = (
            self.task.threads,
            1,
        )
        session = runtime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        given = {self.image.name: _channels_first(self.inputs[self.image.name])}
        return lambda _: session.run(None, given)[0]


class OpenVino(Runner):
    """A model compiled by OpenVINO for the CPU, in float32."""

    packages = ("openvino", "onnx")

    def prepare(self) -> Callable[[Array], Any]:
        """A compiled model with as many threads as the task has."""
        openvino = imported("openvino")
        model = onnx_model(self.graph, self.state, self.task.batch)
        core = openvino.Core()
        read = core.read_model(model.SerializeToString())
        settings = {
            "INFERENCE_NUM_THREADS": self.task.threads,
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
        }
        request = core.compile_model(read, "CPU", settings).create_infer_request()
        given = _channels_first(self.inputs[self.image.name])
        return lambda _: request.infer([given], share_inputs=True)[0]


def _channels_first(image: Array) -> Array:
    return np.ascontiguousarray(image.transpose(0, 3, 1, 2))
