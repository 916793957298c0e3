"""Which segments go at a step, and in which order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Literal

import torch

from synthgrad import _checks
from synthgrad.errors import ArgumentError

Order = Literal["random", "forward"]
Probability = float | Mapping[str, float]


class Chance:
    """Draws, at every step and for every segment by itself, whether it goes.

    Args:
        p_update: the probability for every segment, or for each by name; those not named always go.
        order: "random", or "forward", from the input to the loss.
        generator: where the draws come from; by default PyTorch's.

    Raises:
        ArgumentError: a probability is no number in [0, 1], or the order is none of the two.
    """

    def __init__(
        self, p_update: Probability, order: Order, generator: torch.Generator | None
    ) -> None:
        given = p_update.items() if isinstance(p_update, Mapping) else [("every segment", p_update)]
        for name, p in given:
            if isinstance(p, bool) or not isinstance(p, Real) or not 0 <= p <= 1:
                raise ArgumentError(f"p_update must lie in [0, 1], got {p!r} for {name}")
        _checks.word("order", order, ("random", "forward"))
        if generator is not None:
            _checks.of_kind("generator", generator, torch.Generator, "a torch.Generator")
        self._given = p_update
        self._order = order
        self._generator = generator
        self._p = torch.empty(0)

    def among(self, names: Sequence[str]) -> None:
        """Says which segments there are.

        Raises:
            ArgumentError: a probability is given for another.
        """
        if isinstance(self._given, Mapping):
            if unknown := [name for name in self._given if name not in names]:
                raise ArgumentError(
                    f"p_update names {unknown}, the model's parts are {list(names)}"
                )
            p = [self._given.get(name, 1.0) for name in names]
        else:
            p = [self._given] * len(names)
        self._p = torch.tensor(p, dtype=torch.float64)

    def draw(self) -> list[int]:
        """The positions of the segments that go, in their order.

        Where nothing is left to chance nothing is drawn, so that dropout draws what it would
        without a schedule.
        """
        count = len(self._p)
        if self._order == "forward" and bool(((self._p == 0) | (self._p == 1)).all()):
            return self._p.nonzero().flatten().tolist()
        drawn = torch.rand(count, dtype=torch.float64, generator=self._generator) < self._p
        order = range(count)
        if self._order == "random":
            order = torch.randperm(count, generator=self._generator).tolist()
        goes = drawn.tolist()
        return [position for position in order if goes[position]]
