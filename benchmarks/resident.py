"""Peak resident memory of a whole training process, from its start to its second step.

The memory of activations must not grow with the depth, and nor must that of the first step, which
looks at the graph. Each measurement is a process of its own, in which glibc is told to give large
freed blocks back: otherwise the allocator hides it.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from functools import partial

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import python_path
from synthgrad.decouple import decouple
from synthgrad.inputs import SyntheticInput
from synthgrad.lab.errors import RunError
from synthgrad.schedule import FullyUnlocked, Unlocked

METHODS = ("backprop", "unlocked", "fully unlocked")
CLASSES = 10


def main(threads: int, layers: Sequence[int], *, units: int, batch_size: int) -> None:
    """Measures every method at every depth, and prints megabytes and their ratio."""
    table = Table(title=f"Peak resident memory (MB): {units} units, batch {batch_size}, plain SGD")
    for column in ("method", *map(str, layers), f"{layers[-1]} / {layers[0]}"):
        table.add_column(column)
    for method in METHODS:
        peaks = [peak(method, n, units, batch_size, threads) for n in layers]
        ratio = f"{peaks[-1] / peaks[0]:.2f}"
        table.add_row(method, *(f"{p:.0f}" for p in peaks), ratio)
    Console().print(table)


def peak(method: str, layers: int, units: int, batch_size: int, threads: int) -> float:
    """Megabytes that a fresh process holds at its peak while it trains for two steps.

    Raises:
        RunError: the process failed.
    """
    arguments = [method, *map(str, (layers, units, batch_size, threads))]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.resident", *arguments],
        env={**os.environ, "PYTHONPATH": python_path(), "MALLOC_MMAP_THRESHOLD_": "65536"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise RunError(f"bench memory: {method} with {layers} layers failed: {last}")
    return float(done.stdout)


def train(method: str, layers: int, units: int, batch_size: int) -> None:
    """Two steps of a fully connected network of linear, batch norm, ReLU."""
    torch.manual_seed(0)
    hidden = [
        nn.Sequential(nn.Linear(units, units), nn.BatchNorm1d(units), nn.ReLU())
        for _ in range(layers - 1)
    ]
    model = nn.Sequential(*hidden, nn.Linear(units, CLASSES))
    x, y = torch.randn(batch_size, units), torch.randint(CLASSES, (batch_size,))
    sgd = partial(torch.optim.SGD, lr=1e-3)

    def loss_fn(output: Tensor) -> Tensor:
        return F.cross_entropy(output, y)

    if method == "backprop":
        optimizer = sgd(model.parameters())
        for _ in range(2):
            optimizer.zero_grad()
            loss_fn(model(x)).backward()
            optimizer.step()
        return
    decouple(
        model,
        [str(i) for i in range(layers - 1)],
        "linear",
        context=CLASSES,
        example_inputs=x[:2],
        inputs=lambda _x, _h: SyntheticInput(units, units, (), context=CLASSES),
    )
    schedule = Unlocked(model, sgd) if method == "unlocked" else _fully_unlocked(model, sgd)
    for _ in range(2):
        schedule.step(x, loss_fn, y)


def _fully_unlocked(model: nn.Module, sgd: partial[torch.optim.SGD]) -> FullyUnlocked:
    # In order, a message is dropped as soon as its receiver has gone.
    return FullyUnlocked(model, sgd, order="forward")


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[5]))
    train(sys.argv[1], *map(int, sys.argv[2:5]))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
