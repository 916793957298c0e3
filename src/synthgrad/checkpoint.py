"""Files and checkpoints that survive a kill at any moment, and a damaged file."""

from __future__ import annotations

import errno
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
_NAME = re.compile(r"step-(\d{9,})-([0-9a-f]{16})\.pt")


def save(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Writes a checkpoint; it is there whole or not at all. It and the one before it are kept.

    The name carries a checksum, so that a damaged file is known before it is trusted. Who writes a
    step has none of later steps: files of those were passed over as damaged, or belong to a run
    that was begun anew, and go, so that they are not taken for the newest later on.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    path = folder / f"step-{step:09d}-{_digest(data)}.pt"
    write(path, data)
    others = [p for p in newest_first(folder) if p != path]
    before = [p for p in others if _step(p) < step]
    half = folder.glob(".step-*.pt.*")  # of who was killed while it wrote
    for old in {*others, *half} - {*before[: KEEP - 1]}:
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
    if path.exists() and not path.is_file():  # a device would be replaced
        raise FileExistsError(errno.EEXIST, "it is there, and is not a file", str(path))
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
        if sync:  # the name too
            _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    except OSError:  # some file systems have no such thing
        pass
    finally:
        os.close(folder)


def newest_first(folder: Path) -> list[Path]:
    """The checkpoints of a folder, damaged ones among them: those of the most steps first.

    Times say nothing: a copy may have given the files new ones, and clocks are set.
    """
    found = [p for p in folder.glob("step-*.pt") if _NAME.fullmatch(p.name) and p.is_file()]
    return sorted(found, key=lambda p: (_step(p), p.stat().st_mtime_ns, p.name), reverse=True)


def _step(path: Path) -> int:
    return int(path.name[len("step-") :].partition("-")[0])


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
