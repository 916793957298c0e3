"""Rows of a stream whose episode ends while the others go on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from synthgrad._nest import describe, every, floating, matched, transform
from synthgrad.errors import ArgumentError, ShapeError
from synthgrad.recurrent.layout import BatchDim, Layout, along, layout, row_dim


def mask_of(ended: Tensor | bool, batch: int, device: torch.device) -> Tensor | None:
    """The rows that ended, bool ``"batch"``; None if no row can have.

    A copy: the loop may write its mask again before the backward pass has read it.

    Raises:
        ShapeError: ``ended`` is neither a bool nor one for each example.
    """
    if ended is False:
        return None
    if ended is True:
        return torch.ones(batch, dtype=torch.bool, device=device)
    if _length(ended) != batch:
        raise _refusal(ended, str(batch))
    return ended.clone()


def _length(ended: Any) -> int | None:
    """For how many rows a mask is; None if it is no mask."""
    is_mask = isinstance(ended, Tensor) and ended.dtype == torch.bool and ended.ndim == 1
    return len(ended) if is_mask else None


def _refusal(ended: Any, batch: str, why: str = "") -> ShapeError:
    came = (
        f"{ended.dtype} of shape {tuple(ended.shape)}"
        if isinstance(ended, Tensor)
        else type(ended).__name__
    )
    return ShapeError(
        f"ended must be a bool or a torch.bool tensor of shape ({batch},), got {came}{why}"
    )


def either(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    """Rows that are in one of two masks."""
    if one is None or other is None:
        return other if one is None else one
    return one | other


def refresh(state: Any, ended: Tensor | bool, fresh: Any, batch_dim: BatchDim) -> Any:
    """The state with rows that ended replaced, row by row and without looking at the mask.

    Args:
        state: a nest. A tensor without dimensions belongs to no row and stays, as do those that
            are in ``fresh`` themselves.
        ended: as for :meth:`RecurrentInterface.begin`.
        fresh: a number, for the floating-point tensors; or a nest like the state, of tensors that
            broadcast to those of the state.
        batch_dim: as for :func:`synthgrad.recurrent.layout.layout`.

    Raises:
        ArgumentError: ``fresh`` without ``ended``.
        ShapeError: ``ended`` is no mask for the state, or ``fresh`` is not like the state.
    """
    arranged = None if isinstance(ended, bool) else _arranged(state, ended, batch_dim)
    if fresh is None:
        return state
    if ended is False:
        raise ArgumentError("fresh is the state of rows that ended; say which: ended=mask")
    tensors = every(state)
    if isinstance(fresh, int | float) and not isinstance(fresh, bool):
        news = [t.new_full((), fresh) if t.is_floating_point() else t for t in tensors]
    else:
        news = matched(state, fresh)
    if news is None:
        raise ShapeError(
            f"fresh must be a number or a nest like the state, {describe(state)}; got "
            f"{describe(fresh)}"
        )
    mask = None if isinstance(ended, bool) else ended.clone()  # a copy: see mask_of
    dims = iter(() if arranged is None else arranged.dims)
    renewed = []
    for tensor, new in zip(tensors, news, strict=True):
        dim = next(dims, None) if tensor.is_floating_point() else None
        if tensor.ndim and new is not tensor:
            if mask is None:  # all rows, wherever the batch is
                beside = tensor.new_ones((), dtype=torch.bool)
            else:
                dim = row_dim(tensor, len(mask), batch_dim) if dim is None else dim
                beside = along(mask, dim, tensor.ndim)
            tensor = torch.where(beside, _broadcast(new, tensor), tensor)
        renewed.append(tensor)
    parts = iter(renewed)
    return transform(state, lambda _: next(parts))


def _arranged(state: Any, ended: Any, batch_dim: BatchDim) -> Layout:
    """The layout of a state of as many rows as there are in a mask."""
    batch = _length(ended)
    if batch is None:
        raise _refusal(ended, "batch")
    try:
        return layout(floating(state), batch, batch_dim)
    except ShapeError as error:
        raise _refusal(ended, "batch", f"; {error}") from None


def _broadcast(new: Tensor, tensor: Tensor) -> Tensor:
    try:
        return new.expand(tensor.shape).to(tensor.dtype)
    except RuntimeError:
        raise ShapeError(
            f"a fresh state of shape {tuple(new.shape)} does not broadcast to the state's "
            f"{tuple(tensor.shape)}"
        ) from None
