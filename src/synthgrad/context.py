"""``sg.context``: what a feedback model may know besides the message, such as the label."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from torch import Tensor


class _Frame(NamedTuple):
    value: Any
    derived: dict[Hashable, tuple[int, Any]]


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

    Interfaces that see the same labels would otherwise each encode them again. Labels that were
    rewritten in place are others; those of ``torch.inference_mode`` do not tell, and are not kept.
    """
    frame = _current.get()
    if frame is None or frame.value is not c or (isinstance(c, Tensor) and c.is_inference()):
        return make(c, *how)
    version = c._version if isinstance(c, Tensor) else 0
    key = (make, *how)
    found = frame.derived.get(key)
    if found is None or found[0] != version:
        found = frame.derived[key] = (version, make(c, *how))
    return found[1]
