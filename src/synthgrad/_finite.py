"""Tells whether errors are finite without waiting for the device that holds them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from synthgrad.errors import NonFiniteError


def capturing(tensor: Tensor) -> bool:
    """Whether a CUDA graph is being captured, so that nothing may be read where ``tensor`` is."""
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()


def values(tensor: Tensor) -> Tensor:
    """The numbers that a tensor holds; of a sparse one those that it does hold."""
    return tensor._values() if tensor.is_sparse else tensor


def are_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether no tensor holds NaN or infinity; looks at a device once."""
    # A sum is ten times faster than an element-wise test, which then only has to confirm. What is
    # not finite in one sum is not in the sum of all.
    total, elsewhere = 0.0, []
    for tensor in tensors:
        if tensor.is_sparse:
            tensor = tensor._values()
        if tensor.is_cpu:
            if tensor.is_floating_point():
                total += tensor.sum().item()
            elif tensor.is_complex():
                total += abs(tensor.sum().item())
        elif not tensor.is_meta and (tensor.is_floating_point() or tensor.is_complex()):
            elsewhere.append(tensor.detach().sum())
    if elsewhere:
        device = elsewhere[0].device
        sums = torch.stack([s.abs().to(device, torch.float64) for s in elsewhere])
        total += sums.sum().item()
    return math.isfinite(total) or all(bool(values(t.detach()).isfinite().all()) for t in tensors)


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity; waits for its device."""
    # The sum is ten times faster than an element-wise test, which then only has to confirm.
    return math.isfinite(tensor.sum().item()) or bool(tensor.isfinite().all())


def refusal(tensor: Tensor, what: str, then: str) -> NonFiniteError:
    """The error to raise where a tensor is not finite; says how many of its values.

    Args:
        tensor: something that an update would rest on.
        what: it is.
        then: what has not been done with it, a sentence.
    """
    return NonFiniteError(
        f"{what} has {int((~tensor.isfinite()).sum())} non-finite values (NaN or infinity) of "
        f"{tensor.numel()}; expected finite ones. {then}"
    )


class Magnitude:
    """The largest magnitude of all that was noted, kept on the device until it is asked for."""

    def __init__(self) -> None:
        self._largest: Tensor | None = None

    def prepare(self, tensor: Tensor) -> bool:
        """Makes room beside ``tensor``; needed before a CUDA graph that notes is captured.

        Returns:
            Whether there is room. A capture cannot make any: its replays would begin anew.
        """
        if self._largest is None or self._largest.device != tensor.device:
            if capturing(tensor):
                return False
            # Double precision holds every finite value of any other.
            self._largest = torch.zeros((), dtype=torch.float64, device=tensor.device)
        return True

    def note(self, tensor: Tensor) -> bool:
        """Notes a tensor in two operations on its device; returns what :meth:`prepare` does."""
        if not self.prepare(tensor):
            return False
        # The maximum norm, and the maximum, let NaN and infinity through.
        norm = torch.linalg.vector_norm(tensor, math.inf)
        torch.maximum(self._largest, norm, out=self._largest)  # type: ignore[arg-type]
        return True

    def take(self) -> float:
        """What was noted since the last call, 0 if nothing; waits for the device."""
        if self._largest is None:
            return 0.0
        value = self._largest.item()
        self._largest.zero_()
        return value
