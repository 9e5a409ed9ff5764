"""The contestants: each runs in a process of its own and times steps on request."""

import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import numpy as np

Step = Callable[[], float]
"""Runs one training step and returns the loss."""

LABEL_SETS = 16
"""Labels rotate, so that no contestant learns one batch by heart."""


def images_and_labels(batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Random images [batch,28,28,1] in 0 … 1 and ``LABEL_SETS`` sets of labels."""
    random = np.random.default_rng(0)
    images = random.random((batch, 28, 28, 1), np.float32)
    labels = random.integers(0, 10, (LABEL_SETS, batch)).astype(np.int32)
    return images, labels


def convc_step(batch: int, threads: int) -> Step:
    """The emitted NumPy program; the time includes filling its inputs."""
    from convc.model import Model
    from convc.networks import two_conv

    program = Model(two_conv).training_step().compile(batch=batch, threads=threads)
    images, labels = images_and_labels(batch)
    count = 0

    def step() -> float:
        nonlocal count
        count += 1
        program.input("image")[...] = images
        program.input("labels")[...] = labels[count % LABEL_SETS]
        return float(program.run()["loss"])

    return step


def torch_step(batch: int, threads: int, channels_last: bool = False) -> Step:
    """Eager PyTorch: the same layers and Adam; inputs are already tensors."""
    import torch
    from torch import nn

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 32, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(3136, 1024),
        nn.ReLU(),
        nn.Dropout(0.25),
        nn.Linear(1024, 10),
    )
    images, labels = images_and_labels(batch)
    x, y = torch.tensor(images).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels)
    y = y.long()
    if channels_last:
        network = network.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    count = 0

    def step() -> float:
        nonlocal count
        count += 1
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(x), y[count % LABEL_SETS])
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


CONTESTANTS: dict[str, Callable[[int, int], Step]] = {
    "convc numpy": convc_step,
    "torch eager": torch_step,
    "torch eager channels_last": lambda b, t: torch_step(b, t, True),
}


def serve(pipe: Connection, name: str, batch: int, threads: int) -> None:
    """Answer each number of steps asked for with their times in seconds; 0 ends."""
    step = CONTESTANTS[name](batch, threads)
    while count := pipe.recv():
        times = []
        for _ in range(count):
            start = time.perf_counter()
            step()
            times.append(time.perf_counter() - start)
        pipe.send(times)
