"""Stopping on SIGINT or SIGTERM at a moment that suits the program."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):
    """A signal asked the run to stop; a checkpoint was written first."""


@contextmanager
def noted_signals() -> Iterator[list[int]]:
    """Turns signals into a note, to be read where stopping is safe."""
    caught: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: caught.append(number)) for number in SIGNALS
    }
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
