"""What two segments may not share, where one is changed while the other still counts on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Held:
    """A tensor that a segment holds.

    Attributes:
        called: how errors call it.
        tensor: a parameter or a buffer.
        changes: whether training may change it.
    """

    called: str
    tensor: Tensor
    changes: bool = True


@dataclass(frozen=True)
class Overlap:
    """Two segments that hold one tensor, or two in the same memory.

    Attributes:
        segments: their positions, the lower one first.
        called: how errors call what the one holds, and the other.
        same: whether it is one tensor; else two that lie in the same memory.
    """

    segments: tuple[int, int]
    called: tuple[str, str]
    same: bool


def held(module: nn.Module, of: str, name: Callable[[str], str] = str) -> list[Held]:
    """The tensors of a module, of which only frozen parameters do not change.

    Args:
        module: the module.
        of: how errors call it.
        name: how they call its tensors, given their names in it.
    """
    parameters = module.named_parameters(remove_duplicate=False)
    buffers = module.named_buffers(remove_duplicate=False)
    return [
        *(Held(f"the parameter {name(n)!r} of {of}", p, p.requires_grad) for n, p in parameters),
        *(Held(f"the buffer {name(n)!r} of {of}", b, True) for n, b in buffers),
    ]


def find_overlap(segments: Sequence[Sequence[Held]]) -> Overlap | None:
    """Looks whether what one segment changes is also part of another.

    What neither changes may be shared; so may modules without tensors.

    Args:
        segments: what each holds.

    Returns:
        The first overlap; None where there is none.
    """
    owners: dict[int, tuple[int, Held]] = {}
    spans: list[tuple[str, int, int, int, Held]] = []
    for segment, things in enumerate(segments):
        for thing in things:
            where, other = owners.setdefault(id(thing.tensor), (segment, thing))
            if where != segment and thing.changes:
                return _between(where, other, segment, thing, same=True)
            if where == segment and (span := _span(thing.tensor)) is not None:
                spans.append((*span, segment, thing))
    # In the order in which they lie in memory: those that reach beyond the beginning of the next.
    reaching: list[tuple[str, int, int, int, Held]] = []
    for span in sorted(spans, key=lambda span: span[:3]):
        device, start, _, segment, thing = span
        reaching = [one for one in reaching if one[0] == device and one[2] > start]
        for _, _, _, where, other in reaching:
            if where != segment and (thing.changes or other.changes):
                return _between(where, other, segment, thing, same=False)
        reaching.append(span)
    return None


def _span(tensor: Tensor) -> tuple[str, int, int] | None:
    """From where to where it lies in the memory of a device; None where it does not."""
    try:
        start = tensor.data_ptr()
    except (RuntimeError, NotImplementedError, ValueError):  # not there yet, or not in one piece
        return None
    if not start or tensor.layout != torch.strided or not tensor.numel():
        return None
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    length = 1 + sum((size - 1) * stride for size, stride in steps)
    return str(tensor.device), start, start + length * tensor.element_size()


def _between(one: int, this: Held, other: int, that: Held, *, same: bool) -> Overlap:
    if other < one:
        one, this, other, that = other, that, one, this
    return Overlap((one, other), (this.called, that.called), same)
