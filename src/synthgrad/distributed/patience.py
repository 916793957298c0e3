"""How long a stage waits for the one above it."""

from __future__ import annotations

import logging

from synthgrad.distributed.edge import Edge
from synthgrad.distributed.place import PeerError, Place

log = logging.getLogger("synthgrad.distributed")


class Patience:
    """Says whether a frame that there is no room for is waited with, or dropped.

    Args:
        name: of the stage above.
        place: of this one.
        cold: whether this is the beginning of the run, when all are still to come.

    Attributes:
        stalled: whether the stage above was waited for in vain.
        dropped: messages since the last one that was sent.
    """

    def __init__(self, name: str, place: Place, *, cold: bool) -> None:
        self._name, self._place = name, place
        self._first_wait = place.options.patience if cold else place.options.timeout
        self.stalled = False
        self.dropped = 0

    def lasts(self, edge: Edge, waited: float, must: bool) -> bool:
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
        if not edge.up:
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
