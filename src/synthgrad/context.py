"""``sg.context``: what a feedback model may know besides the message, such as the label."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple


class _Frame(NamedTuple):
    value: Any
    derived: dict[Hashable, Any]


_current: ContextVar[_Frame | None] = ContextVar("synthgrad_context", default=None)


@contextmanager
def context(c: Any) -> Iterator[None]:
    """Gives ``c`` to every interface called inside the block, also deep in an ``nn.Sequential``.

    Blocks nest, the innermost counts, and leaving one (by an exception too) restores what was
    there before. Each thread and each asyncio task has its own. Only the forward pass needs it:
    ``loss.backward()`` may run outside.

    Args:
        c: usually class labels, ``Int[Tensor, "batch"]``, or a float tensor ``"batch context"``.
    """
    token = _current.set(_Frame(c, {}))
    try:
        yield
    finally:
        _current.reset(token)


def current_context() -> Any:
    """The context in force here, or None."""
    frame = _current.get()
    return None if frame is None else frame.value


def derived(c: Any, make: Callable[..., Any], *how: Hashable) -> Any:
    """What ``make(c, *how)`` returns; computed once per block if ``c`` is the context in force.

    Interfaces that see the same labels would otherwise each encode them again.
    """
    frame = _current.get()
    if frame is None or frame.value is not c:
        return make(c, *how)
    key = (make, *how)
    found = frame.derived.get(key)
    if found is None:
        found = frame.derived[key] = make(c, *how)
    return found
