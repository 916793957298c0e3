"""Checkpoints that survive a kill at any moment, and a damaged file."""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import torch

from synthgrad.errors import SynthgradWarning
from synthgrad.lab.atomic import write_atomically
from synthgrad.lab.errors import RunError

KEEP = 2
_NAME = re.compile(r"step-(\d{9})-([0-9a-f]{16})\.pt")


def save(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Writes a checkpoint; it is there whole or not at all. The last two are kept.

    The name carries a checksum, so that a damaged file is known before it is trusted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    path = folder / f"step-{step:09d}-{_digest(data)}.pt"
    write_atomically(path, data)
    for old in _newest_first(folder)[KEEP:]:
        old.unlink(missing_ok=True)
    return path


def load_newest(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint that is whole, or None where there is none at all.

    A damaged one is passed over with a warning.

    Raises:
        RunError: there are checkpoints, and all are damaged.
    """
    paths = _newest_first(folder)
    for path in paths:
        try:
            data = path.read_bytes()
            if _digest(data) != _NAME.fullmatch(path.name)[2]:  # type: ignore[index]
                raise ValueError("its checksum does not match its name")
            # To the CPU first: where a run goes on need not be where it was stopped.
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except (OSError, ValueError, RuntimeError, pickle.UnpicklingError) as error:
            warnings.warn(
                f"passing over the damaged checkpoint {path}: {error}",
                SynthgradWarning,
                stacklevel=2,
            )
    if paths:
        raise RunError(f"all checkpoints in {folder} are damaged: {[p.name for p in paths]}")
    return None


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _newest_first(folder: Path) -> list[Path]:
    return sorted((p for p in folder.glob("step-*.pt") if _NAME.fullmatch(p.name)), reverse=True)
