"""The streams of digits, and what the networks are asked about them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from synthgrad.lab.data.batches import Batches
from synthgrad.types import Float, Shaped

THREE = 3
"""The digit that network B counts."""


class Stretch(NamedTuple):
    """T² ticks of all rows' streams.

    Attributes:
        digits: one image a tick and row, ``"ticks batch pixels"``.
        odd: how many of the last T digits were odd, every T ticks, ``"T batch"``, int64.
        threes: how many of them were a three, the same way.
        threes_in_all: how many of all these digits were a three, ``"batch"``, int64.
    """

    digits: Float[Tensor, "ticks batch pixels"]
    odd: Shaped[Tensor, "T batch"]
    threes: Shaped[Tensor, "T batch"]
    threes_in_all: Shaped[Tensor, " batch"]


def stretch(x: Tensor, y: Tensor, unroll: int) -> Stretch:
    """What a set of images is as a stretch of streams.

    Args:
        x: images, ``"n channels height width"``, where n is T² times the number of rows.
        y: which digits they show, ``"n"``.
        unroll: T.
    """
    ticks = unroll**2
    digits = x.flatten(1).unflatten(0, (ticks, -1))
    shown = y.unflatten(0, (unroll, unroll, -1))
    odd, threes = ((shown % 2).sum(dim=1), (shown == THREE).sum(dim=1))
    return Stretch(digits, odd, threes, threes.sum(dim=0))


class Streams:
    """Endless streams of training digits in random order, each shown once before any comes again.

    Which digits come at a step depends on the seed and the step alone.

    Args:
        x: the images.
        y: their labels.
        batch: rows.
        unroll: T.
        seed: of the order.
    """

    def __init__(self, x: Tensor, y: Tensor, batch: int, unroll: int, seed: int) -> None:
        self._batches = Batches(x, y, batch * unroll**2, seed)
        self._unroll = unroll

    def at(self, step: int) -> Stretch:
        """The T² ticks of a step, counted from 0."""
        return stretch(*self._batches.at(step), self._unroll)


def rounds(x: Tensor, y: Tensor, unroll: int, times: int) -> Stretch:
    """A set of images as streams to test on, each image ``times`` times among others.

    The order is always the same. What fills no row is left out of a round.
    """
    ticks = unroll**2
    generator = torch.Generator().manual_seed(0)
    whole = len(x) // ticks * ticks
    chosen = [torch.randperm(len(x), generator=generator)[:whole] for _ in range(times)]
    order = torch.cat([part.unflatten(0, (ticks, -1)) for part in chosen], dim=1).flatten()
    order = order.to(x.device)
    return stretch(x[order], y[order], unroll)
