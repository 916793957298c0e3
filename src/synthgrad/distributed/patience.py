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
        # One that came back is waited for once it has used something: its first step takes long.
        if not edge.up or (self._place.options.alone is None and not edge.warm):
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
