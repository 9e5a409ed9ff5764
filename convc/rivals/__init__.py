"""Other libraries that run the same networks: who is raced with convc, and how."""

from collections.abc import Mapping

RIVALS: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "torch": ("pytorch", "Torch", ("training", "inference")),
    "torch:channels_last": ("pytorch", "Torch", ("training", "inference")),
    "torch:compile": ("pytorch", "Torch", ("training", "inference")),
    "jax": ("jax_rival", "Jax", ("training", "inference")),
    "tensorflow": ("tensorflow_rival", "TensorFlow", ("training", "inference")),
    "onnxruntime": ("onnx_rivals", "OnnxRuntime", ("inference",)),
    "openvino": ("onnx_rivals", "OpenVino", ("inference",)),
}
"""For each rival its module and class here, and what it can do."""
