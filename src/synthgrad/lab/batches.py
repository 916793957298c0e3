"""Shuffled batches of a data set that lives on the device as tensors."""

from __future__ import annotations

import torch
from torch import Tensor


class Batches:
    """Endless shuffled batches; which one comes at a step depends on the seed alone.

    So a resumed run sees the same examples without any state. The rest of an epoch that does not
    fill a batch is left out of that epoch.

    Args:
        x: the examples, "n ...".
        y: their labels, "n".
        size: examples in a batch.
        seed: of the order.

    Raises:
        ValueError: there are fewer examples than a batch has.
    """

    def __init__(self, x: Tensor, y: Tensor, size: int, seed: int) -> None:
        if size > len(x):
            raise ValueError(f"a batch of {size} needs at least as many examples, got {len(x)}")
        self.x, self.y, self.size, self.seed = x, y, size, seed
        self.per_epoch = len(x) // size
        self._epoch = -1
        self._order = torch.empty(0)

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """The batch of a step, counted from 0."""
        epoch, position = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            # Odd multipliers keep the streams of neighbouring seeds apart.
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self._order = torch.randperm(len(self.x), generator=generator).to(self.x.device)
            self._epoch = epoch
        chosen = self._order[position * self.size : (position + 1) * self.size]
        return self.x[chosen], self.y[chosen]
