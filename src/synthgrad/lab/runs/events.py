"""TensorBoard event files, written at once.

``torch.utils.tensorboard`` writes them from a thread, which cannot say to the run that the disk is
full, and is behind when the run is killed.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import (
    Event,  # pyright: ignore[reportAttributeAccessIssue] made when it is imported
    SessionLog,  # pyright: ignore[reportAttributeAccessIssue]
)
from tensorboard.compat.proto.summary_pb2 import (
    Summary,  # pyright: ignore[reportAttributeAccessIssue]
)
from tensorboard.summary.writer.record_writer import RecordWriter


class EventFile:
    """One event file of a run, from a step on.

    What an interrupted run has logged from that step on is hidden.

    Args:
        folder: of the run.
        step: the first that will be written.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(self, folder: Path, step: int) -> None:
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}.0"
        self._file = open(folder / name, "xb")  # noqa: SIM115 it stays open
        self._records = RecordWriter(self._file)
        start = SessionLog(status=SessionLog.START)
        self._write(Event(step=step, file_version="brain.Event:2"))
        self._write(Event(step=step, session_log=start))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds the values of a step."""
        parts = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(Event(step=step, summary=Summary(value=parts)))

    def close(self) -> None:
        """Lets go of the file."""
        with suppress(OSError):  # all was written already
            self._file.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())
        self._records.flush()
