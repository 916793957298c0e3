"""Files and checkpoints that survive a kill at any moment, and a damaged file."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import torch

from synthgrad.errors import SynthgradWarning

KEEP = 2
_NAME = re.compile(r"step-(\d{9})-([0-9a-f]{16})\.pt")


def save(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Writes a checkpoint; it is there whole or not at all. The last two are kept.

    The name carries a checksum, so that a damaged file is known before it is trusted.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    path = folder / f"step-{step:09d}-{_digest(data)}.pt"
    write(path, data)
    for old in [p for p in newest_first(folder) if p != path][KEEP - 1 :]:
        old.unlink(missing_ok=True)
    return path


def load(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint that is whole; None where there is none.

    A damaged one is passed over with a warning.
    """
    for path in newest_first(folder):
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
    return None


def write(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Writes a file so that a reader sees the old content or the new, whole.

    Args:
        path: the file; its folder is made.
        data: its content.
        sync: whether it also has to survive a crash of the machine.

    Raises:
        OSError: it cannot be written; the old content is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def newest_first(folder: Path) -> list[Path]:
    """The checkpoints of a folder, damaged ones among them.

    By when they were written: who lost the newest may write a lower step again.
    """
    found = [p for p in folder.glob("step-*.pt") if _NAME.fullmatch(p.name)]
    return sorted(found, key=lambda p: (p.stat().st_mtime_ns, p.name), reverse=True)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
