"""What a stage says about itself, for whoever watches."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from synthgrad.checkpoint import write

EVERY = 0.5
"""Seconds between writings of ``status.json``."""


@dataclass
class Counters:
    """What a stage has done.

    Attributes:
        updates: of the segment.
        synthetic_inputs: those of them that were made on a predicted input.
        sent: messages handed to the next stage.
        dropped: messages that nobody was there for.
        targets: errors that came back and were fitted to.
        target_age: how many steps old they were, added up.
        late: targets that came for nothing: their message was no longer kept.
        waited_for_input: seconds without a message to work on.
        waited_for_window: seconds in which too many messages were in flight.
        waited_for_target: seconds, of a synchronous stage.
        busy: seconds of computing.
    """

    updates: int = 0
    synthetic_inputs: int = 0
    sent: int = 0
    dropped: int = 0
    targets: int = 0
    target_age: int = 0
    late: int = 0
    waited_for_input: float = 0.0
    waited_for_window: float = 0.0
    waited_for_target: float = 0.0
    busy: float = 0.0
    result: dict[str, float] = field(default_factory=dict)


class Publisher:
    """Writes a status to a file now and then, from a thread of its own.

    Args:
        path: the file; None for none.
        status: what to write.
    """

    def __init__(self, path: Path | None, status: Callable[[], dict[str, Any]]) -> None:
        self._path, self._status = path, status
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._publish, name="status", daemon=True)

    def __enter__(self) -> Publisher:
        if self._path is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._ended.set()
        if self._path is not None:
            self._thread.join()
            self._write()

    def _publish(self) -> None:
        self._write()
        while not self._ended.wait(EVERY):
            self._write()

    def _write(self) -> None:
        assert self._path is not None
        with suppress(OSError):  # a full disk must not end the training
            write(self._path, json.dumps(self._status()).encode(), sync=False)
