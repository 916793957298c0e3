"""When each step began: written by a process as it goes, so that it survives a ``kill -9``."""

from __future__ import annotations

import math
import os
import struct
import time
from pathlib import Path
from types import TracebackType
from typing import Self

_ENTRY = struct.Struct("=dq")
UP = -1
"""Noted in place of a step when a process is ready to begin."""
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Timeline:
    """Appends to a file: a moment and the step that begins then.

    Moments are those of the machine's monotonic clock, which all its processes share.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def note(self, step: int) -> None:
        """A step begins now."""
        os.write(self._fd, _ENTRY.pack(time.monotonic(), step))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        os.close(self._fd)


def read_timeline(path: Path) -> list[tuple[float, int]]:
    """All that was noted, in order; nothing where nothing was."""
    if not path.exists():
        return []
    data = path.read_bytes()
    whole = len(data) // _ENTRY.size * _ENTRY.size  # a process may be killed while it writes
    return [(moment, step) for moment, step in _ENTRY.iter_unpack(data[:whole])]


def last_entry(path: Path) -> tuple[float, int]:
    """The moment and step noted last; minus infinity where nothing was."""
    try:
        with open(path, "rb") as file:
            whole = file.seek(0, os.SEEK_END) // _ENTRY.size
            if not whole:
                return -math.inf, UP
            file.seek((whole - 1) * _ENTRY.size)
            moment, step = _ENTRY.unpack(file.read(_ENTRY.size))
            return moment, step
    except FileNotFoundError:
        return -math.inf, UP


def seconds_per_step(entries: list[tuple[float, int]], warm_up: int) -> float:
    """From the first step after the warm-up to the beginning of the last."""
    moments = [moment for moment, step in entries if step >= warm_up]
    return (moments[-1] - moments[0]) / (len(moments) - 1)


def resident_bytes() -> int:
    """The memory of this process that is in use."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE
