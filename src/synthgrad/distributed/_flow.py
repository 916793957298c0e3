"""How many messages may be on their way to the next stage, and how long that is waited for."""

from __future__ import annotations

import logging
import math

from synthgrad.distributed._place import PeerError, Place
from synthgrad.distributed.options import MAX_WINDOW, UNTIL_MEASURED, Options
from synthgrad.distributed.transport.base import Connection

log = logging.getLogger("synthgrad.distributed")

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


class Patience:
    """Says whether a frame that there is no room for is waited with, or dropped.

    Args:
        name: of the stage above.
        place: of this one.
        first_wait: seconds for which it is waited for at the start of this process.

    Attributes:
        stalled: whether the stage above was waited for in vain.
        dropped: messages since the last one that was sent.
    """

    def __init__(self, name: str, place: Place, *, first_wait: float) -> None:
        self._name, self._place = name, place
        self._first_wait = first_wait
        self.stalled = False
        self.dropped = 0

    def lasts(self, edge: Connection, waited: float, must: bool) -> bool:
        """Whether a frame that there is no room for is waited with, rather than dropped."""
        patience = self._place.options.patience
        if self._place.out_of_time or (self._place.stopping and (must or not edge.up)):
            return False
        if must or (edge.generation == 0 and self._first_wait):
            if waited < (patience if must else self._first_wait):
                return True
            if must or self._first_wait == patience:
                raise PeerError(f"{self._name} did not come within {patience:g} s")
            self._first_wait = 0.0
            log.warning("%s does not come; going on without it until it does", self._name)
            return False
        # One that came back is waited for once it has used something: its first step takes long.
        if not edge.up or (self._place.options.alone is None and not _is_warm(edge)):
            return self._alone(waited)
        if self.stalled:
            return False
        if waited >= self._place.options.timeout:
            self.stalled = True
            log.warning("%s uses no messages; going on without it until it does", self._name)
        return not self.stalled

    def _alone(self, waited: float) -> bool:
        """Whether the next stage, which is gone, is waited for."""
        options = self._place.options
        if options.alone is None or self.dropped < options.alone:
            return False
        if waited > options.patience:
            raise PeerError(f"{self._name} did not come back within {options.patience:g} s")
        return True


def _is_warm(edge: Connection) -> bool:
    """Whether the next stage, where it has come back, has used something since."""
    return edge.generation == 1 or edge.answered
