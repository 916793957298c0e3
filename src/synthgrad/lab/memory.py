"""Out of memory: which settings to lower."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from synthgrad.lab.errors import RunError
from synthgrad.lab.settings import Settings

_SIZES = ("unroll", "batch_size", "units", "layers", "level_every")
"""The settings that memory grows with."""
_SAYS = ("out of memory", "allocate memory", "not enough memory")
"""PyTorch has no exception of its own for the memory of a CPU."""


@contextmanager
def enough_memory(config: Settings) -> Iterator[None]:
    """Says of what asks for too much memory which of its settings are to be lowered.

    Raises:
        RunError: there was not enough memory.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error)
        is_memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not is_memory and not any(said in text for said in _SAYS):
            raise
        sizes = ", ".join(
            f"--{name.replace('_', '-')} {getattr(config, name)}"
            for name in _SIZES
            if name in type(config).model_fields
        )
        why = text.splitlines()[0] if text else type(error).__name__
        raise RunError(f"out of memory: lower some of {sizes} ({why})") from None
