"""Turns what users pass as context into one float row per position of the message."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from synthgrad.context import derived
from synthgrad.errors import ContextError


def encode(context: Any, positions: torch.Size, width: int, dtype: torch.dtype) -> Tensor:
    """Encodes a context as ``"*positions width"``, labels as one-hot rows (D.1).

    What a context is follows from its type and its number of axes: integers and truth values of
    one axis, or of as many as there are positions, are labels; everything else is rows.

    Args:
        context: integer labels ``"batch"`` or one per position; or rows ``"batch width"`` or
            ``"*positions width"``. What has no time axis is repeated along it.
        positions: the message's shape without its feature axis: ``(batch,)`` or
            ``(batch, time)``.
        width: the number of classes, or the width of a row.
        dtype: of the result.

    Raises:
        ContextError: the context is missing, of another batch, of another width; or labels are
            given as floats, or may as well be rows (or the other way round) because the classes
            are as many as the steps; or a label is outside ``[0, width)`` (on a CPU; a GPU asserts
            by itself).
    """
    return derived(context, _encode, positions, width, dtype)


def _encode(context: Any, positions: torch.Size, width: int, dtype: torch.dtype) -> Tensor:
    if context is None:
        raise ContextError(
            f"the feedback model is conditional (context={width}) but got no context: "
            "call interface(h, context=...) or run the forward pass inside sg.context(...)"
        )
    if not isinstance(context, Tensor):
        raise ContextError(f"the context must be a tensor, got {type(context).__name__}")
    shape = tuple(context.shape)
    if not shape or shape[0] != positions[0]:
        raise ContextError(
            f"the message has batch size {positions[0]}, but the context has shape {shape}"
        )
    if _are_labels(context, positions, width):
        rows = _one_hot(context, width, dtype)
    elif len(shape) > 1 and shape in ((positions[0], width), (*positions, width)):
        rows = context
    else:
        floats = context.is_floating_point() and shape == tuple(positions[: len(shape)])
        raise ContextError(
            f"expected integer labels of shape {tuple(positions)} or rows of shape "
            f"{(*positions, width)}, got {context.dtype} of shape {shape}"
            f"{'; class numbers have to be integers, as labels.long() is' if floats else ''}"
        )
    while rows.ndim <= len(positions):
        rows = rows.unsqueeze(-2)
    return rows.expand(*positions, width).to(dtype)


def _are_labels(context: Tensor, positions: torch.Size, width: int) -> bool:
    shape = tuple(context.shape)
    if shape != tuple(positions[: len(shape)]):
        return False
    whole = not context.is_floating_point()
    if len(shape) == 1 or shape[-1] != width:
        return whole
    # One label a position, or one row an example: the sizes do not tell. Rows of truth values,
    # as of F.one_hot, hold nothing but 0 and 1; class numbers do not.
    numbers = whole or not context.frac().any()
    classes = bool(numbers and ((context != 0) & (context != 1)).any())
    if whole != classes:
        raise ContextError(
            f"a context of {context.dtype} and shape {shape} may be a label for each position or a "
            f"row for each example, since there are {width} classes and {positions[-1]} steps; "
            f"expected labels as integers, or rows as floats or of shape {(*positions, width)}"
        )
    return whole


def _one_hot(labels: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    index = labels.long().unsqueeze(-1)
    try:
        # Unlike F.one_hot it reads no label on the host, for which a GPU would be waited for.
        return index.new_zeros((*labels.shape, width), dtype=dtype).scatter_(-1, index, 1)
    except RuntimeError:  # it looks at the range itself, so only a failure is looked at again
        low, high = (int(bound) for bound in torch.aminmax(labels))
        raise ContextError(
            f"labels must lie in [0, {width}), got {low if low < 0 else high} "
            f"(the feedback model has context={width})"
        ) from None
