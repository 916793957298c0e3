"""A state as one row of numbers per example, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod

import torch
from torch import Tensor

from synthgrad.errors import ArgumentError, ShapeError
from synthgrad.types import Float

BatchDim = int | tuple[int, ...] | None
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """Where the batch is in each tensor of a state.

    Attributes:
        shapes: of the state's floating-point tensors, in order.
        dims: the batch dimension of each.
        batch: how many examples there are.
    """

    shapes: tuple[Shape, ...]
    dims: tuple[int, ...]
    batch: int

    @property
    def widths(self) -> list[int]:
        """How many numbers each tensor has per example."""
        return [prod(shape) // self.batch for shape in self.shapes]

    @property
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
        return [along(mask, dim, len(shape)) for shape, dim in pairs]


def along(mask: Tensor, dim: int, ndim: int) -> Tensor:
    """A mask ``"batch"`` in the shape that goes along with a tensor of ``ndim`` dimensions."""
    return mask.view([-1 if d == dim else 1 for d in range(ndim)])


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


def row_dim(tensor: Tensor, batch: int, batch_dim: BatchDim) -> int:
    """The batch dimension of a tensor that is carried along, such as a counter.

    ``batch_dim`` need not fit it, being the floating-point tensors' own; then the default holds.

    Raises:
        ShapeError, ArgumentError: as for :func:`layout`.
    """
    shape = tuple(tensor.shape)
    if isinstance(batch_dim, int) and -len(shape) <= batch_dim < len(shape):
        batch_dim %= len(shape)
        if shape[batch_dim] == batch:
            return batch_dim
    return _find(shape, batch, None)


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
