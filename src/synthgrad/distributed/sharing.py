"""What two stages may not share: each works in a process of its own, on its own copy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from synthgrad.errors import LockingError


@dataclass(frozen=True)
class Held:
    """A tensor that a stage holds.

    Attributes:
        called: how errors call it.
        tensor: a parameter or a buffer.
        changes: whether training may change it: all but frozen parameters.
    """

    called: str
    tensor: Tensor
    changes: bool


def held(module: nn.Module, of: str, name: Callable[[str], str] = str) -> list[Held]:
    """The tensors of a module.

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


def refuse_shared(stages: Sequence[Sequence[Held]]) -> None:
    """Looks whether what one stage changes is also part of another.

    Frozen parameters may be shared, for their copies stay the same; so may modules without tensors.

    Args:
        stages: what each holds.

    Raises:
        LockingError: two stages share a parameter, a buffer or memory; says which by name.
    """
    owners: dict[int, tuple[int, Held]] = {}
    spans: list[tuple[str, int, int, int, Held]] = []
    for stage, things in enumerate(stages):
        for thing in things:
            where, other = owners.setdefault(id(thing.tensor), (stage, thing))
            if where != stage and thing.changes:
                raise _shared(where, other, stage, thing, "are one and the same")
            if where == stage and (span := _span(thing.tensor)) is not None:
                spans.append((*span, stage, thing))
    # In the order in which they lie in memory: those that reach beyond the beginning of the next.
    reaching: list[tuple[str, int, int, int, Held]] = []
    for span in sorted(spans, key=lambda span: span[:3]):
        device, start, _, stage, thing = span
        reaching = [one for one in reaching if one[0] == device and one[2] > start]
        for _, _, _, where, other in reaching:
            if where != stage and (thing.changes or other.changes):
                raise _shared(where, other, stage, thing, "lie in the same memory")
        reaching.append(span)


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


def _shared(one: int, this: Held, other: int, that: Held, how: str) -> LockingError:
    if other < one:
        one, this, other, that = other, that, one, this
    return LockingError(
        f"segments {one} and {other} cannot be apart: {this.called} and {that.called} {how}; in "
        "processes of their own each would go on with its own copy. Keep both in one segment, or "
        "give each its own"
    )
