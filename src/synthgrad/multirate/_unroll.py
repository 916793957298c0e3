"""What a node carries between its ticks, and what waits for its next update."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from numbers import Number
from typing import Any

import torch
from torch import Tensor

from synthgrad._nest import transform
from synthgrad.errors import LockingError


@dataclass
class Unroll:
    """A node's ticks since its last update.

    Attributes:
        state: what its next tick starts from.
        ticks: how many there were.
        roots: where its backward pass starts, and with which error: losses (None), and messages
            with their synthetic errors.
    """

    state: Any = None
    ticks: int = 0
    roots: list[tuple[Tensor, Tensor | None]] = field(default_factory=list)

    def root(self, tensor: Tensor, error: Tensor | None = None) -> None:
        """Notes where the backward pass starts, unless nothing leads there."""
        if tensor.requires_grad:
            self.roots.append((tensor, error))

    def backward(self) -> None:
        """The backward pass through all these ticks."""
        if self.roots:
            tensors, errors = zip(*self.roots, strict=True)
            torch.autograd.backward(tensors, errors)


def check_state(state: Any, node: str) -> None:
    """Refuses a state that may hide tensors, which could be neither cut off nor moved.

    Raises:
        LockingError: something in it is no tensor, tuple, list, dict, number, text or None.
    """
    if isinstance(state, dict):
        state = list(state.values())
    if isinstance(state, tuple | list):
        for part in state:
            check_state(part, node)
    elif state is not None and not isinstance(state, Tensor | Number | str | bytes | Enum):
        raise LockingError(
            f"the state of node {node!r} holds a {type(state).__name__}; expected a tensor, a nest "
            "(tuple, list, dict) of tensors, or None"
        )


def detached(state: Any) -> Any:
    """The same state, cut off from what it was computed from."""
    return transform(state, Tensor.detach)


def settled(kept: Any, like: Tensor | None, was: Tensor | None) -> Any:
    """A copy of what was saved, fit for a graph that may compute elsewhere or otherwise.

    Args:
        kept: a nest.
        like: on the device and in the precision of the node it belongs to; None if unknown.
        was: in that node's precision when it was saved; None if unknown. Floating tensors that
            had another, as under autocast, keep it.
    """

    def settle(t: Tensor) -> Tensor:
        if like is None:
            return t.clone()
        same = t.is_floating_point() and (was is None or t.dtype == was.dtype)
        return t.to(like.device, like.dtype if same else t.dtype, copy=True)

    return transform(kept, settle)
