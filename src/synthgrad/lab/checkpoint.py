"""A run's checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from synthgrad import saved
from synthgrad.lab.errors import RunError


def load_newest(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint that is whole, or None where there is none at all.

    Raises:
        RunError: there are checkpoints, and all are damaged.
    """
    state = saved.load(folder)
    if state is None and (paths := saved.newest_first(folder)):
        raise RunError(f"all checkpoints in {folder} are damaged: {[p.name for p in paths]}")
    return state
