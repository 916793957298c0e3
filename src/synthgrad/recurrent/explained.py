"""How much of its target a prediction explains, without ever waiting for the device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Explained:
    r"""The explained variance of a prediction.

    .. math:: 1 - \frac{\sum_b \lVert \hat\delta_b - \delta_b \rVert^2}
                       {\sum_b \lVert \delta_b \rVert^2}

    0 is what a prediction of zero reaches, 1 a perfect one. Everything stays on the device, and in
    the same memory, so a captured CUDA graph goes on counting.

    Attributes:
        last: the squared error and the target's square of the last prediction, ``"2"``: per
            example, the mean over the batch; None before the first.
        total: their sums since the last :meth:`reset`. A pair that is not finite (of a loss that
            was multiplied by zero, or that overflowed) is seen in ``last`` and left out here.
    """

    def __init__(self) -> None:
        self.last: Tensor | None = None
        self.total: Tensor | None = None

    def record(self, error: Tensor, square: Tensor) -> None:
        """Counts a prediction; both are scalars, already detached."""
        pair = torch.stack([error, square])
        counts = torch.where(pair.isfinite().all(), pair, 0)
        if self.last is None or self.total is None or self.last.device != pair.device:
            self.last, self.total = pair, counts
        else:
            self.last.copy_(pair)
            self.total.add_(counts)

    @property
    def now(self) -> Tensor:
        """The last prediction's explained variance, a scalar tensor; NaN before the first."""
        return _ratio(self.last)

    @property
    def mean(self) -> Tensor:
        """That of all predictions since the last :meth:`reset`, a scalar tensor."""
        return _ratio(self.total)

    def reset(self) -> None:
        """Begins the sums anew."""
        if self.total is not None:
            self.total.zero_()

    def state(self) -> dict[str, Any]:
        """A copy of what is counted."""
        return {
            "last": None if self.last is None else self.last.clone(),
            "total": None if self.total is None else self.total.clone(),
        }

    def restore(self, state: dict[str, Any], device: torch.device | None) -> None:
        """Takes over what :meth:`state` returned."""
        last, total = state["last"], state["total"]
        self.last = None if last is None else last.to(device or last.device, copy=True)
        self.total = None if total is None else total.to(device or total.device, copy=True)


def _ratio(pair: Tensor | None) -> Tensor:
    if pair is None:
        return torch.tensor(float("nan"))
    return 1 - pair[0] / pair[1]
