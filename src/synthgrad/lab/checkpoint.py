"""A run's checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from synthgrad import checkpoint
from synthgrad.lab.errors import RunError

BEGIN_ANEW = "to begin anew delete the run folder, or give another with --out"
"""What to do about a folder that cannot be gone on with."""


def load_newest(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint that is whole, or None where there is none at all.

    Raises:
        RunError: there are checkpoints, and all are damaged.
    """
    state = checkpoint.load(folder)
    if state is None and (paths := checkpoint.newest_first(folder)):
        names = ", ".join(path.name for path in paths)
        raise RunError(f"all checkpoints in {folder} are damaged ({names}); {BEGIN_ANEW}")
    return state
