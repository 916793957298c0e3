"""How many messages may be in flight."""

from __future__ import annotations

import math

from synthgrad.distributed.options import MAX_WINDOW, Options

UNTIL_MEASURED = 8
"""Messages in flight with ``window="auto"``, before the round trip is known."""
_MARGIN = 4


class Window:
    """The window of an edge: a number, or one that follows the round trip.

    A message is in flight for a round trip, and until it is used; so as many fit as steps go into
    the round trip, and some more for jitter.

    Args:
        options: the run's.
    """

    def __init__(self, options: Options) -> None:
        self._given = options.window
        self._seconds = 0.0

    def took(self, seconds: float) -> None:
        """Notes what the computing of a step took."""
        self._seconds = 0.9 * (self._seconds or seconds) + 0.1 * seconds

    def size(self, round_trip: float | None) -> int:
        """Messages that may be in flight."""
        if isinstance(self._given, int):
            return self._given
        if round_trip is None or not self._seconds:
            return UNTIL_MEASURED
        return min(MAX_WINDOW, math.ceil(round_trip / self._seconds) + _MARGIN)
