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
        x, y = self.room()
        self.fill(step, x, y)
        return x, y

    def room(self) -> tuple[Tensor, Tensor]:
        """Tensors that hold one batch, not filled yet."""
        return torch.empty_like(self.x[: self.size]), torch.empty_like(self.y[: self.size])

    def fill(self, step: int, x: Tensor, y: Tensor) -> None:
        """Writes the batch of a step into tensors from :meth:`room`.

        It takes a third of the time that new tensors take, whose memory has to be had first.
        """
        epoch, position = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._order = self.shuffled(epoch)
            self._epoch = epoch
        chosen = self._order[position * self.size : (position + 1) * self.size]
        torch.index_select(self.x, 0, chosen, out=x)
        torch.index_select(self.y, 0, chosen, out=y)

    def shuffled(self, epoch: int) -> Tensor:
        """The order of an epoch, on the examples' device."""
        # Odd multipliers keep the streams of neighbouring seeds apart.
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**64)
        order = torch.randperm(len(self.x), generator=generator)
        if self.x.is_cuda:
            order = order.pin_memory()  # from other memory, the copy would wait for the device
        return order.to(self.x.device, non_blocking=True)
