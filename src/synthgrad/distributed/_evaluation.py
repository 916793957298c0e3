"""Evaluation of the joined network: batches that flow through like others, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from synthgrad.distributed.protocol import Frame, Kind
from synthgrad.errors import ShapeError


def frames(
    batches: Iterable[tuple[Tensor, Tensor]], size: int, step: int, *, final: bool
) -> Iterator[Frame]:
    """Batches as frames of the size of a training batch.

    Smaller ones are filled up with their first example, which is then not counted.

    Args:
        batches: x and y.
        size: examples in a training batch.
        step: when this is.
        final: whether it is the evaluation at the end of the run.

    Raises:
        ShapeError: a batch is empty or larger than those of training.
    """
    held: Frame | None = None
    first = True
    for x, y in batches:
        rows = len(x)
        if not 0 < rows <= size:
            raise ShapeError(
                f"a batch for evaluation has {rows} examples, expected 1 to {size}, as in training"
            )
        if rows < size:
            x = torch.cat([x, x[:1].expand(size - rows, *x.shape[1:])])
            y = torch.cat([y, y[:1].expand(size - rows, *y.shape[1:])])
        if held is not None:
            yield held
        held = Frame(Kind.EVAL, step, rows, first=first, final=final, tensors=(x, y))
        first = False
    if held is not None:
        held.last = True
        yield held


class Tally:
    """Adds up losses and what the metric says.

    Args:
        metric: ``metric(output, y)`` gives a number for each example; None for none.
    """

    def __init__(self, metric: Callable[[Any, Tensor], Tensor] | None) -> None:
        self._metric = metric
        self._loss, self._losses = 0.0, 0
        self._total, self._rows, self._step = 0.0, 0, -1

    def add_loss(self, loss: Tensor) -> None:
        """Counts a step's loss."""
        self._loss += loss.item()
        self._losses += 1

    def add(self, output: Any, y: Tensor, frame: Frame) -> None:
        """Counts what a frame of an evaluation, whose output and labels these are, holds."""
        rows, step = frame.rows, frame.step
        if frame.first or step != self._step:  # the last one was cut short, or is sent again
            self._total, self._rows, self._step = 0.0, 0, step
        if self._metric is not None:
            self._total += self._metric(output, y)[:rows].sum().item()
        self._rows += rows

    def take(self) -> dict[str, float]:
        """The means since the last call."""
        found: dict[str, float] = {}
        if self._losses:
            found["train_loss"] = self._loss / self._losses
        if self._metric is not None and self._rows:
            found["metric"] = self._total / self._rows
            found["examples"] = self._rows
        self.clear()
        self._loss, self._losses = 0.0, 0
        return found

    def clear(self) -> None:
        """Forgets the examples so far."""
        self._total, self._rows, self._step = 0.0, 0, -1
