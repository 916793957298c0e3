"""Every feedback model, for every kind of message it takes: what the conformance suite runs on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

import synthgrad as sg
from synthgrad.feedback import MLP, Conv, Critic, Feedback, Linear, Stale, Zero
from tests.networks import Value, awake

ROWS, TIMES, IMAGES = (4, 6), (4, 3, 6), (4, 6, 3, 2)
CLASSES = 5


@dataclass(frozen=True)
class Case:
    """A feedback model for one kind of message."""

    make: Callable[[], Feedback]
    shape: tuple[int, ...]
    conditional: bool = False
    dtype: torch.dtype = torch.float64

    def of(self, dtype: torch.dtype) -> Case:
        return replace(self, dtype=dtype)

    def model(self) -> Feedback:
        return self.make().to(self.dtype)

    def message(self) -> Tensor:
        return torch.randn(self.shape).to(self.dtype)

    def context(self) -> Tensor | None:
        return torch.randint(CLASSES, self.shape[:1]) if self.conditional else None

    def interface(self, **options: Any) -> sg.Interface:
        """One that predicts something: its model has random weights, or has seen an error."""
        interface = sg.Interface(self.model(), name="it", **options)
        awake(interface)
        interface.feedback.observe(self.message())
        return interface


CASES = {
    "Linear, rows": Case(lambda: Linear(6), ROWS),
    "Linear, times": Case(lambda: Linear(6), TIMES),
    "Linear, labelled rows": Case(lambda: Linear(6, CLASSES), ROWS, True),
    "Linear, labelled times": Case(lambda: Linear(6, CLASSES), TIMES, True),
    "MLP, rows": Case(lambda: MLP(6, (8, 7)), ROWS),
    "MLP, times": Case(lambda: MLP(6, (8,)), TIMES),
    "MLP, labelled rows": Case(lambda: MLP(6, (8,), CLASSES), ROWS, True),
    "MLP, labelled times": Case(lambda: MLP(6, (8, 7), CLASSES), TIMES, True),
    "Conv": Case(lambda: Conv(6, (4,), 3), IMAGES),
    "Conv, labelled": Case(lambda: Conv(6, (4, 3), 3, CLASSES), IMAGES, True),
    "Conv, one layer": Case(lambda: Conv(6, (), 3), IMAGES),
    "Critic, rows": Case(lambda: Critic(Value(6)), ROWS),
    "Critic, labelled rows": Case(lambda: Critic(Value(6, CLASSES)), ROWS, True),
    "Critic, times": Case(lambda: Critic(Value(18)), TIMES),
    "Critic, images": Case(lambda: Critic(Value(36)), IMAGES),
    "Zero, rows": Case(Zero, ROWS),
    "Zero, times": Case(Zero, TIMES),
    "Zero, images": Case(Zero, IMAGES),
    "Stale, rows": Case(lambda: Stale(0.9), ROWS),
    "Stale, times": Case(lambda: Stale(0.9), TIMES),
    "Stale, images": Case(lambda: Stale(0.0), IMAGES),
}
every = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
precisions = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str
)


def answer(received: Tensor) -> None:
    """A receiver with a loss for each example, which sends an error back."""
    weight = torch.linspace(-1, 1, received[0].numel(), dtype=received.dtype)
    sg.losses((received.flatten(1) * weight).sum(dim=1)).mean().backward()
