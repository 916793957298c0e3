"""Nests of tensors: the states of recurrent cores, as users have them.

A nest is a tensor, or a tuple, named tuple, list or dict of nests. Anything else in it (a number,
None) is carried along and left alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor


def transform(nest: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same nest with every tensor changed, in the order of :func:`every`."""
    if isinstance(nest, Tensor):
        return change(nest)
    if isinstance(nest, tuple):
        parts = [transform(part, change) for part in nest]
        return type(nest)(*parts) if hasattr(nest, "_fields") else tuple(parts)
    if isinstance(nest, list):
        return [transform(part, change) for part in nest]
    if isinstance(nest, dict):
        changed = copy.copy(nest)  # of the same kind, in the same order
        for key, part in nest.items():
            changed[key] = transform(part, change)
        return changed
    return nest


def every(nest: Any) -> list[Tensor]:
    """All tensors, depth first; dicts in their own order."""
    if isinstance(nest, Tensor):
        return [nest]
    if isinstance(nest, dict):
        nest = list(nest.values())
    return [t for part in nest for t in every(part)] if isinstance(nest, tuple | list) else []


def floating(nest: Any) -> list[Tensor]:
    """The tensors that can have a gradient; counters and masks are not among them."""
    return [tensor for tensor in every(nest) if tensor.is_floating_point()]


def matched(nest: Any, other: Any) -> list[Tensor] | None:
    """The tensors of ``other`` in the order of :func:`every`; dicts are matched by key.

    None if it is not the same nest; shapes may differ.
    """
    if isinstance(nest, Tensor):
        return [other] if isinstance(other, Tensor) else None
    if isinstance(nest, dict) and isinstance(other, dict):
        if nest.keys() != other.keys():
            return None
        pairs = [(part, other[key]) for key, part in nest.items()]
    elif type(nest) is not type(other):
        return None
    elif isinstance(nest, tuple | list):
        if len(nest) != len(other):
            return None
        pairs = zip(nest, other, strict=True)
    else:
        return []
    found: list[Tensor] = []
    for part, counterpart in pairs:
        if (inside := matched(part, counterpart)) is None:
            return None
        found += inside
    return found


def with_floating(nest: Any, tensors: Iterable[Tensor]) -> Any:
    """The same nest with the tensors of :func:`floating` exchanged for ``tensors``, in order."""
    fresh = iter(tensors)
    return transform(nest, lambda t: next(fresh) if t.is_floating_point() else t)


def describe(nest: Any) -> str:
    """The nest's structure and shapes, for comparing and for errors: ``((1, 4, 8), (1, 4, 8))``."""
    if isinstance(nest, Tensor):
        return str(tuple(nest.shape))
    if isinstance(nest, dict):
        return "{" + ", ".join(f"{key!r}: {describe(part)}" for key, part in nest.items()) + "}"
    if isinstance(nest, tuple | list):
        inside = ", ".join(describe(part) for part in nest)
        if isinstance(nest, list):
            return f"[{inside}]"
        name = type(nest).__name__ if hasattr(nest, "_fields") else ""
        return f"{name}({inside}{',' * (len(nest) == 1)})"
    return type(nest).__name__
