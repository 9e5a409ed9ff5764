"""Do the contestants compute the same step? Loss and gradients against float64.

The reference is the interpreter in float64; the bound is derived from the graph by
``convc.ir.rounding`` and holds for any order of float32 summation.
"""

import numpy as np

from convc.ir import philox
from convc.ir.graph import Graph
from convc.ir.rounding import bounded
from convc.model import Model
from convc.networks import two_conv

GRADIENT = "gradient/"


def agreement(batch: int = 4, threads: int = 2) -> list[dict[str, object]]:
    """For the loss and every gradient: the largest error of convc and of PyTorch.

    Errors are given as a share of the largest element (of the float64 reference) and
    as a share of the derived bound; a share of the bound above 1 is a fault.
    """
    step = Model(two_conv).training_step(keep_gradients=True)
    program = step.compile(batch=batch, threads=threads)
    random = np.random.default_rng(1)
    images = random.random((batch, 28, 28, 1), np.float32)
    labels = random.integers(0, 10, batch).astype(np.int32)
    state = program.state()
    reference = bounded(program.graph, {"image": images, "labels": labels}, state)
    ours = program(image=images, labels=labels)
    rival = torch_gradients(state, images, labels, mask_of(program.graph, state, batch))
    rows = []
    for name in ["loss", *(k for k in ours if k.startswith(GRADIENT))]:
        exact, bound = reference.outputs[name], reference.output_bounds[name]
        row: dict[str, object] = {"value": name.removeprefix(GRADIENT)}
        for who, found in (("convc", ours), ("torch", rival)):
            if found is None:
                continue
            error = np.abs(found[name].astype(np.float64) - exact)
            row[f"{who}_relative"] = float(error.max() / np.abs(exact).max())
            row[f"{who}_share_of_bound"] = share(error, bound)
        rows.append(row)
    return rows


def share(error: np.ndarray, bound: np.ndarray) -> float:
    """The largest error as a share of its bound; where the bound is 0, 0 or inf."""
    exact = np.asarray(np.where(error > 0, np.inf, 0.0))
    return float(np.divide(error, bound, out=exact, where=bound > 0).max())


def mask_of(graph: Graph, state: dict[str, np.ndarray], batch: int) -> np.ndarray:
    """The dropout mask [batch,1024] that the step draws."""
    mask = next(n for n in graph.ops() if n.op == "dropout_mask")
    seed, stream, keep = (
        state["training/seed"],
        mask.attrs["stream"],
        mask.attrs["keep"],
    )
    kept = philox.keep_mask(int(seed), stream, 0, batch * 1024, keep)
    return kept.reshape(batch, 1024)


def torch_gradients(
    state: dict[str, np.ndarray],
    images: np.ndarray,
    labels: np.ndarray,
    mask: np.ndarray,
) -> dict[str, np.ndarray] | None:
    """Loss and gradients of the same step by PyTorch in float32; None without it."""
    try:
        import torch
        import torch.nn.functional as functional
    except ImportError:
        return None
    names = [k for k in state if not k.startswith(("optimizer/", "training/"))]
    p = {k: torch.tensor(state[k], requires_grad=True) for k in names}

    def conv(x: torch.Tensor, name: str) -> torch.Tensor:
        kernel = p[f"{name}/kernel"].permute(3, 2, 0, 1)
        y = functional.conv2d(x, kernel, p[f"{name}/biases"], padding=2)
        return functional.max_pool2d(functional.relu(y), 2)

    x = conv(conv(torch.tensor(images).permute(0, 3, 1, 2), "conv1"), "conv2")
    x = x.permute(0, 2, 3, 1).reshape(len(images), -1)
    x = functional.relu(x @ p["fc/kernel"] + p["fc/biases"])
    x = x * torch.tensor(mask) / 0.75
    logits = x @ p["logits/kernel"] + p["logits/biases"]
    loss = functional.cross_entropy(logits, torch.tensor(labels).long())
    loss.backward()
    found = {f"{GRADIENT}{k}": v.grad.numpy() for k, v in p.items()}
    return {"loss": loss.detach().numpy(), **found}
