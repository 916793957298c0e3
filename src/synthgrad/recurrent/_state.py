"""A recurrent core's state, parsed once: its tensors, where their batch is, and rows that ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor

from synthgrad._nest import describe, every, matched, transform
from synthgrad.errors import ArgumentError, ShapeError
from synthgrad.types import Float

BatchDim = int | tuple[int, ...] | None
Shape = tuple[int, ...]


class State:
    """A nest of tensors that a core hands on from step to step.

    Args:
        nest: as the user has it.
        batch_dim: as for :func:`layout`.

    Attributes:
        form: its structure and shapes, for comparison and for errors.
        floating: the tensors that can have a gradient, in order; counters and masks are not
            among them.

    Raises:
        ShapeError: it has no floating-point tensor; or one is complex, or has no dimension for the
            batch.
    """

    def __init__(self, nest: Any, batch_dim: BatchDim) -> None:
        self._nest, self._batch_dim = nest, batch_dim
        self._set(every(nest))
        self.form = describe(nest)
        if not self.floating:
            raise ShapeError(
                "a state is a floating-point tensor or a nest (tuple, list, dict) of them, got "
                f"{self.form}"
            )
        for tensor in self._tensors:
            if tensor.is_complex() or (tensor.is_floating_point() and tensor.ndim == 0):
                raise ShapeError(
                    f"a state's tensors are real and have a batch dimension, got {tensor.dtype} of "
                    f"shape {tuple(tensor.shape)}"
                )
            if tensor.layout != torch.strided:
                raise ShapeError(f"a state's tensors are dense, got one of {tensor.layout}")

    def _set(self, tensors: list[Tensor]) -> None:
        self._tensors = tensors
        self.floating = [tensor for tensor in tensors if tensor.is_floating_point()]

    def exchange(self, floating: Sequence[Tensor]) -> None:
        """Takes ``floating`` for the floating-point tensors, in order."""
        news = iter(floating)
        self._set([next(news) if t.is_floating_point() else t for t in self._tensors])

    @property
    def nest(self) -> Any:
        """The nest with the tensors that are in it now."""
        parts = iter(self._tensors)
        return transform(self._nest, lambda _: next(parts))

    def expect(self, form: str, whose: str) -> None:
        """Refuses a state whose nest or shapes have changed.

        Raises:
            ShapeError: they have.
        """
        if self.form != form:
            raise ShapeError(
                f"the state is {self.form}, but {whose} {form}; expected the same nest and shapes "
                "(reset() begins anew with others)"
            )

    def layout(self, batch: int) -> Layout:
        """Where the batch is in each floating-point tensor.

        Raises:
            ShapeError, ArgumentError: as for :func:`layout`.
        """
        return layout(self.floating, batch, self._batch_dim)

    def refresh(self, ended: Tensor | bool, fresh: Any) -> None:
        """Replaces rows that ended, row by row and without looking at the mask.

        A tensor without dimensions belongs to no row and stays.

        Args:
            ended: as for :meth:`RecurrentInterface.begin`.
            fresh: a number, for the floating-point tensors; or a nest like the state, of tensors
                that broadcast to those of the state; or None, and the rows go on.

        Raises:
            ArgumentError: ``fresh`` without ``ended``.
            ShapeError: ``ended`` is no mask for the state, or ``fresh`` is not like the state.
        """
        mask = None if isinstance(ended, bool) else self._rows_of(ended)
        if fresh is None:
            return
        if ended is False:
            raise ArgumentError("fresh is the state of rows that ended; say which: ended=mask")
        masks = iter(() if mask is None else self.layout(len(mask)).beside(mask))
        renewed = []
        for tensor, new in zip(self._tensors, self._fresh(fresh), strict=True):
            beside = next(masks, None) if tensor.is_floating_point() else None
            if tensor.ndim and new is not tensor:
                if mask is None:  # all rows, wherever the batch is
                    beside = tensor.new_ones((), dtype=torch.bool)
                elif beside is None:
                    beside = _along(mask, self._row_dim(tensor, len(mask)), tensor.ndim)
                tensor = torch.where(beside, _broadcast(new, tensor), tensor)
            renewed.append(tensor)
        self._set(renewed)

    def _rows_of(self, ended: Any) -> Tensor:
        """A mask of as many rows as the state has; a copy: see :func:`mask_of`."""
        batch = _length(ended)
        if batch is None:
            raise _refusal(ended, "batch")
        try:
            self.layout(batch)
        except ShapeError as error:
            raise _refusal(ended, "batch", f"; {error}") from None
        return ended.clone()

    def _fresh(self, fresh: Any) -> list[Tensor]:
        """What each tensor is to start from."""
        if isinstance(fresh, int | float) and not isinstance(fresh, bool):
            return [t.new_full((), fresh) if t.is_floating_point() else t for t in self._tensors]
        news = matched(self._nest, fresh)
        if news is None:
            raise ShapeError(
                f"fresh must be a number or a nest like the state, {self.form}; got "
                f"{describe(fresh)}"
            )
        return news

    def _row_dim(self, tensor: Tensor, batch: int) -> int:
        """The batch dimension of a tensor that is carried along, such as a counter.

        ``batch_dim`` need not fit it, being the floating-point tensors' own; then the default
        holds.
        """
        shape, dim = tuple(tensor.shape), self._batch_dim
        if isinstance(dim, int) and -len(shape) <= dim < len(shape) and shape[dim] == batch:
            return dim % len(shape)
        return _find(shape, batch, None)


@dataclass(frozen=True)
class Layout:
    """A state as one row of numbers per example, and back.

    Attributes:
        shapes: of the state's floating-point tensors, in order.
        dims: the batch dimension of each.
        batch: how many examples there are.
    """

    shapes: tuple[Shape, ...]
    dims: tuple[int, ...]
    batch: int

    @cached_property
    def widths(self) -> list[int]:
        """How many numbers each tensor has per example."""
        return [prod(shape) // self.batch for shape in self.shapes]

    @cached_property
    def width(self) -> int:
        """How many numbers the whole state has per example."""
        return sum(self.widths)

    def rows(self, tensors: Sequence[Tensor]) -> Float[Tensor, "batch width"]:
        """The tensors flattened and put side by side, an example a row."""
        flat = [
            tensor.movedim(dim, 0).reshape(self.batch, -1)
            for tensor, dim in zip(tensors, self.dims, strict=True)
        ]
        return torch.cat(flat, dim=1) if len(flat) > 1 else flat[0]

    def split(self, rows: Float[Tensor, "batch width"]) -> list[Tensor]:
        """The inverse of :meth:`rows`; the results are views."""
        parts = rows.split(self.widths, dim=1)
        return [
            part.unflatten(1, (*shape[:dim], *shape[dim + 1 :])).movedim(0, dim)
            if len(shape) > 1
            else part.squeeze(1)
            for part, shape, dim in zip(parts, self.shapes, self.dims, strict=True)
        ]

    def beside(self, mask: Tensor) -> list[Tensor]:
        """A mask ``"batch"``, once for each tensor, in the shape that goes along with it."""
        pairs = zip(self.shapes, self.dims, strict=True)
        return [_along(mask, dim, len(shape)) for shape, dim in pairs]


def check_batch_dim(batch_dim: Any) -> BatchDim:
    """One dimension, one for each tensor, or None.

    Raises:
        ArgumentError: it is something else.
    """
    several = isinstance(batch_dim, Sequence)
    dims = tuple(batch_dim) if several else () if batch_dim is None else (batch_dim,)
    if isinstance(batch_dim, str) or not all(
        isinstance(dim, int) and not isinstance(dim, bool) for dim in dims
    ):
        raise ArgumentError(
            f"batch_dim must be a dimension, or a tuple with one for each tensor, got {batch_dim!r}"
        )
    return dims if several else batch_dim


def layout(tensors: Sequence[Tensor], batch: int, batch_dim: BatchDim) -> Layout:
    """Finds the batch in each tensor of a state.

    Args:
        tensors: the state's floating-point tensors.
        batch: the number of examples.
        batch_dim: the batch dimension of all of them, or of each. By default the first one, or
            the second of those with three or more dimensions, whichever is ``batch`` long:
            ``(batch, units)`` as in ``nn.LSTMCell`` and ``(layers, batch, units)`` as in
            ``nn.LSTM`` are both found.

    Raises:
        ShapeError: a tensor has no such dimension; or there are no examples.
        ArgumentError: the rule fits both dimensions; or ``batch_dim`` is not one per tensor.
    """
    return _layout(tuple(tuple(tensor.shape) for tensor in tensors), batch, batch_dim)


@lru_cache(maxsize=64)
def _layout(shapes: tuple[Shape, ...], batch: int, batch_dim: BatchDim) -> Layout:
    if batch == 0:
        raise ShapeError("the batch has no examples, expected at least one")
    if isinstance(batch_dim, tuple) and len(batch_dim) != len(shapes):
        raise ArgumentError(
            f"batch_dim={batch_dim} is for {len(batch_dim)} tensors, the state has {len(shapes)}"
        )
    said = batch_dim if isinstance(batch_dim, tuple) else (batch_dim,) * len(shapes)
    dims = tuple(_find(shape, batch, dim) for shape, dim in zip(shapes, said, strict=True))
    return Layout(shapes, dims, batch)


def _find(shape: Shape, batch: int, dim: int | None) -> int:
    candidates = ((0, 1) if len(shape) > 2 else (0,)) if dim is None else (dim,)
    fits = [d % len(shape) for d in candidates if -len(shape) <= d < len(shape)]
    fits = [d for d in fits if shape[d] == batch]
    if len(fits) == 2 and batch > 1:
        raise ArgumentError(
            f"both the first and the second dimension of a state tensor {shape} are as long as "
            f"the batch, {batch}; say which one it is: batch_dim=1 for nn.LSTM and the like"
        )
    if not fits:
        where = " or ".join(str(d) for d in candidates)
        raise ShapeError(
            f"the batch has {batch} examples, but a state tensor of shape {shape} has not that "
            f"many in dimension {where}; batch_dim says which dimension is the batch"
        )
    return fits[0]


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


def either(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    """Rows that are in one of two masks."""
    if one is None or other is None:
        return other if one is None else one
    return one | other


def _length(ended: Any) -> int | None:
    """For how many rows a mask is; None if it is no mask."""
    is_mask = isinstance(ended, Tensor) and ended.dtype == torch.bool and ended.ndim == 1
    return len(ended) if is_mask else None


def _refusal(ended: Any, batch: str, why: str = "") -> ShapeError:
    is_tensor = isinstance(ended, Tensor)
    came = f"{ended.dtype} of shape {tuple(ended.shape)}" if is_tensor else type(ended).__name__
    return ShapeError(
        f"ended must be a bool or a torch.bool tensor of shape ({batch},), got {came}{why}"
    )


def _along(mask: Tensor, dim: int, ndim: int) -> Tensor:
    """A mask ``"batch"`` in the shape that goes along with a tensor of ``ndim`` dimensions."""
    return mask.view([-1 if d == dim else 1 for d in range(ndim)])


def _broadcast(new: Tensor, tensor: Tensor) -> Tensor:
    try:
        return new.expand(tensor.shape).to(tensor.dtype)
    except RuntimeError:
        raise ShapeError(
            f"a fresh state of shape {tuple(new.shape)} does not broadcast to the state's "
            f"{tuple(tensor.shape)}"
        ) from None
