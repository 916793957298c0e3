"""How many operations a step asks for, and how many the machine could do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.timing import timed

_LEAST = 0.05
_LARGEST = 8192


def operations(work: Callable[[], object]) -> int:
    """The floating-point operations of matrix products and convolutions in one call of ``work``.

    What is replayed from a CUDA graph cannot be seen and counts for nothing.
    """
    # The products that add in place are not among those that it knows.
    more = {torch.ops.aten.addmm_: _addmm}
    with FlopCounterMode(display=False, custom_mapping=more) as counter:
        work()
    return counter.get_total_flops()


def _addmm(_: Any, one: Sequence[int], other: Sequence[int], **__: Any) -> int:
    """Operations of a product, by the factors' shapes."""
    return 2 * one[0] * one[1] * other[1]


class Peak:
    """Operations a second in a large product of square matrices, the best of several.

    The matrices are as large as a product needs to be to be timed well, up to a size that fills
    the largest GPU.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._device = device
        self._dtype = dtype
        self.best = 0.0
        size = 512
        self._make(size)
        while self.measure() < _LEAST and size < _LARGEST:
            size *= 2
            self._make(size)

    def measure(self) -> float:
        """Times one product more; returns its seconds."""
        seconds = timed(lambda: torch.mm(self._one, self._other, out=self._result), 1, self._device)
        self.best = max(self.best, 2 * len(self._one) ** 3 / seconds)
        return seconds

    def _make(self, size: int) -> None:
        one, other, result = (
            torch.rand(size, size, device=self._device).to(self._dtype) for _ in range(3)
        )
        self._one, self._other, self._result = one, other, result
        torch.mm(one, other, out=result)  # the first takes longer
