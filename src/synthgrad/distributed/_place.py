"""Where a stage stands, and what its two ends share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from synthgrad.distributed.options import Options
from synthgrad.distributed.transport.base import Transport
from synthgrad.errors import SynthgradError


class PeerError(SynthgradError, RuntimeError):
    """A stage that this one cannot go on without did not come, or come back, in time."""


@dataclass
class Place:
    """A stage's place in a pipeline.

    Attributes:
        index: which stage it is, from 0.
        stages: how many there are.
        transport: what connects it with the others.
        options: the run's.
        changed: notified when something comes over an edge.
        saves: called while a stage that was asked to stop waits for something.
        stop_at: when waiting ends for a stage that was asked to stop; None if it was not.
    """

    index: int
    stages: int
    transport: Transport
    options: Options
    changed: threading.Condition = field(default_factory=threading.Condition)
    saves: Callable[[], None] = lambda: None
    stop_at: float | None = None

    @property
    def stopping(self) -> bool:
        """Whether the stage was asked to stop."""
        return self.stop_at is not None

    @property
    def out_of_time(self) -> bool:
        """Whether it was, and has to leave now."""
        return self.stop_at is not None and time.monotonic() >= self.stop_at

    def pause(self, ready: Callable[[], bool]) -> float:
        """Waits a little for something to happen; returns the seconds that passed."""
        if self.stopping:
            self.saves()
        started = time.monotonic()
        with self.changed:
            # In slices, since a signal wakes nobody.
            self.changed.wait_for(ready, 0.1)
        return time.monotonic() - started
