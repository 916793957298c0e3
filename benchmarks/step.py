"""``synthgrad bench step``: what a training step costs against plain backpropagation."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.allocator import keep_freed_memory
from benchmarks.memory import peak_activation_bytes
from synthgrad.context import context
from synthgrad.decouple import decouple
from synthgrad.lab.experiments.feed_forward import fcn, hidden_name
from synthgrad.schedule import Unlocked

BATCH, INPUTS, UNITS, CLASSES = 256, 784, 256, 10
ROUNDS, STEPS, WARM_UP = 100, 5, 20
TARGET = 1.60
ADAM = partial(torch.optim.Adam, lr=1e-4, fused=True)


class _Batches:
    """Fresh examples every step: on a fixed batch errors shrink to denormals, which are slow."""

    def __init__(self) -> None:
        self.x = torch.rand(100, BATCH, INPUTS)
        self.y = torch.randint(CLASSES, (100, BATCH))
        self.i = 0

    def __call__(self) -> tuple[Tensor, Tensor]:
        self.i = (self.i + 1) % len(self.x)
        return self.x[self.i], self.y[self.i]


def network(layers: int) -> nn.Module:
    """The 784-256-…-10 network, batch norm and ReLU behind each hidden layer."""
    torch.manual_seed(0)
    return fcn(INPUTS, UNITS, layers, CLASSES)


def decoupled(layers: int) -> nn.Module:
    """The same with a linear cDNI behind each hidden layer."""
    cuts = [hidden_name(i) for i in range(1, layers)]
    return decouple(network(layers), cuts, "linear", context=CLASSES)


def _plain(model: nn.Module, batches: _Batches) -> Callable[[], object]:
    optimizer = ADAM(model.parameters())

    def step() -> None:
        x, y = batches()
        optimizer.zero_grad()
        with context(y):
            loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()

    return step


def _unlocked(model: nn.Module, batches: _Batches) -> Callable[[], object]:
    schedule = Unlocked(model, ADAM)

    def step() -> None:
        x, y = batches()
        schedule.step(x, lambda output: F.cross_entropy(output, y), y)

    return step


def time_ratios() -> dict[str, tuple[float, float]]:
    """Milliseconds a step and the ratio to backpropagation, by method.

    The methods take turns, a few steps each, so that what disturbs the machine disturbs all of
    them. The lower quartile of the rounds is what counts: noise only ever adds.
    """
    batches = _Batches()
    steps = {
        "backprop": _plain(network(4), batches),
        "cDNI inline": _plain(decoupled(4), batches),
        "cDNI unlocked": _unlocked(decoupled(4), batches),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        for _ in range(WARM_UP):
            step()
    for _ in range(ROUNDS):
        for name, step in steps.items():
            start = time.perf_counter()
            for _ in range(STEPS):
                step()
            times[name].append((time.perf_counter() - start) / STEPS)
    low = {name: statistics.quantiles(values, n=4)[0] for name, values in times.items()}
    return {name: (1e3 * value, value / low["backprop"]) for name, value in low.items()}


def main(threads: int) -> None:
    """Measures and prints both tables."""
    torch.set_num_threads(threads)
    kept = keep_freed_memory()
    console = Console()
    console.print(
        f"batch {BATCH}, {INPUTS}-{UNITS}-{UNITS}-{UNITS}-{CLASSES}, fused Adam, {threads} threads,"
        f" allocator keeps freed memory: {'yes' if kept else 'no'}"
    )
    table = Table("method", box=None)
    table.add_column("ms a step", justify="right")
    table.add_column("x backprop", justify="right")
    table.add_column("to reach", justify="right")
    for name, (milliseconds, ratio) in time_ratios().items():
        goal = "" if name == "backprop" else f"{TARGET:.2f}"
        table.add_row(name, f"{milliseconds:.2f}", f"{ratio:.2f}", goal)
    console.print(table)

    depths = (8, 16, 32, 64)
    console.print("\nPeak bytes of activations alive in a step (MB), by depth")
    table = Table("method", *(str(depth) for depth in depths), "64 / 8", box=None)
    for name, unlocked in (("backprop", False), ("cDNI unlocked", True)):
        peaks = [peak_activation_bytes(depth, unlocked=unlocked) for depth in depths]
        cells = [f"{peak / 1e6:.2f}" for peak in peaks]
        table.add_row(name, *cells, f"{peaks[-1] / peaks[0]:.2f}")
    console.print(table)
