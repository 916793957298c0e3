"""Where a stage stands, and what its two ends share."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from synthgrad.distributed.edge import Edge
from synthgrad.distributed.options import Options
from synthgrad.distributed.store import address
from synthgrad.errors import ArgumentError, SynthgradError


class PeerError(SynthgradError, RuntimeError):
    """A stage that this one cannot go on without did not come, or come back, in time."""


@dataclass
class Place:
    """A stage's place in a pipeline.

    Attributes:
        index: which stage it is, from 0.
        stages: how many there are.
        store: where they meet.
        options: the run's.
        changed: notified when something comes over an edge.
        saves: called while a stage that was asked to stop waits for something.
        stop_at: when waiting ends for a stage that was asked to stop; None if it was not.
    """

    index: int
    stages: int
    store: str
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

    @staticmethod
    def check(edge: Edge) -> None:
        """Raises what keeps an edge from ever being formed.

        Raises:
            SchemaError: the ends do not fit.
        """
        if edge.problem is not None:
            raise edge.problem


def check_interface(name: str | None) -> None:
    """Looks whether this machine has a network interface; None always is.

    Raises:
        ArgumentError: it has not; says which it has.
    """
    there = [found for _, found in socket.if_nameindex()]
    if name is not None and name not in there:
        raise ArgumentError(
            f"interface: there is no {name!r} on this machine, only {', '.join(there)}"
        )


def answers(store: str) -> bool:
    """Whether anybody listens where the store should be; waits for two seconds at most."""
    try:
        with socket.create_connection(address(store), timeout=2.0):
            return True
    except OSError:
        return False
