"""Frames over a process group of two: each is one transfer, its header in front of its contents.

What a transfer costs is threads that wake up at both ends, more than bytes that are copied. So a
frame is one buffer, and receives are posted again together with the next frame that is sent.
"""

from __future__ import annotations

import struct
import threading
from collections import deque
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from torch import Tensor

from synthgrad.distributed.protocol import Layout, Room

FIELDS = struct.Struct("12q")
HEADER = 128
"""Bytes in front of a frame's contents, so that these begin where memory is aligned."""

_OWED = 2
"""Receives that may wait for the next frame to be sent before they are posted again."""
_SPARE = 4
"""Receives posted beyond the window: those that are owed, signs of life and answers."""
_LARGE = 1 << 16
"""Bytes from which a tensor is not copied out of the buffer that it came into."""
_BEATS = 64
"""Frames without contents that may be on their way."""


class Channel:
    """Sends and receives frames; one thread may receive while another sends.

    Receives for as many as may come are posted ahead: a transfer whose receive is not posted yet
    costs a round trip more.

    Args:
        group: the process group.
        peer: the other's rank in it.
        outgoing: how the contents of what this end sends lie in memory.
        incoming: how those of what it receives do.
        posted: frames with contents for which there is room at first.
        capacity: those for which there may be.
        timeout: seconds to wait for a transfer.
    """

    def __init__(
        self,
        group: Any,
        peer: int,
        outgoing: Layout,
        incoming: Layout,
        *,
        posted: int,
        capacity: int,
        timeout: float,
    ) -> None:
        self._group, self._peer = group, peer
        self._timeout = timedelta(seconds=timeout)
        self._capacity = capacity
        self._heads = Sent(Layout([]).behind(HEADER).room, 2 * capacity + _BEATS, self._wait)
        self._sent = Sent(outgoing.behind(HEADER).room, capacity + 2, self._wait)
        self._make = incoming.behind(HEADER).room
        self._posted: deque[tuple[Any, Room]] = deque()
        self._lock = threading.Lock()
        self._read: list[Room] = []  # whose contents nobody was given
        self._room = 0
        self._owed = 0
        self.make_room(posted)
        self._post()

    def send(self, fields: Sequence[int], tensors: Sequence[Tensor], arrived: int) -> None:
        """Sends a frame.

        Args:
            fields: the numbers of its header.
            tensors: its contents, if any; copied, to the type that travels.
            arrived: how many frames with contents are known to have arrived.

        Raises:
            RuntimeError: the other end is gone.
        """
        sent = self._sent if tensors else self._heads
        room = sent.take(arrived if tensors else 0)  # what has no contents is not counted
        FIELDS.pack_into(room.memory, 0, *fields)
        room.fill(tensors)
        self._post()  # first, so that the other end wakes up once for both
        sent.keep(self._group.send([room.buffer], self._peer, 0), room)

    def receive(self, has_contents: Callable[[Sequence[int]], bool]) -> tuple[Any, list[Tensor]]:
        """The next frame's header and contents; waits for it.

        What is large is the memory that it came into, which is not used again; the rest is a copy.

        Args:
            has_contents: says of a header whether its frame has any.

        Raises:
            RuntimeError: the other end is gone, or silent for longer than the timeout.
        """
        work, room = self._posted[0]
        self._wait(work)
        self._posted.popleft()
        fields = FIELDS.unpack_from(room.memory)
        views = room.views if has_contents(fields) else []
        tensors = [view if view.nbytes >= _LARGE else view.clone() for view in views]
        with self._lock:
            self._owed += 1
            if all(view.nbytes < _LARGE for view in views):
                self._read.append(room)
        if self._owed > _OWED:
            self._post()
        return fields, tensors

    def make_room(self, frames: int) -> None:
        """Lets at least so many frames with contents, up to the capacity, be on their way here."""
        more = min(frames, self._capacity) - self._room
        if more > 0:
            with self._lock:
                self._owed += more + (0 if self._room else _SPARE)
                self._room += more

    def _post(self) -> None:
        with self._lock:
            while self._owed:
                room = self._read.pop() if self._read else self._make()
                self._posted.append((self._group.recv([room.buffer], self._peer, 0), room))
                self._owed -= 1

    def _wait(self, work: Any) -> None:
        work.wait(self._timeout)


class Sent:
    """Buffers for what is being sent; the oldest is taken again once it has gone.

    Args:
        make: makes one.
        most: as many as there may be.
        wait: waits until what was sent has gone.
    """

    def __init__(self, make: Callable[[], Room], most: int, wait: Callable[[Any], None]) -> None:
        self._make, self._most, self._wait = make, most, wait
        self._busy: deque[tuple[Any, Room]] = deque()
        self._gone = 0

    def take(self, arrived: int) -> Room:
        """A buffer to fill.

        Args:
            arrived: how many of all that were sent are known to have arrived.
        """
        if self._busy and (self._gone < arrived or len(self._busy) >= self._most):
            work, room = self._busy.popleft()
            self._gone += 1
            if self._gone > arrived:
                self._wait(work)
            return room
        return self._make()

    def keep(self, work: Any, room: Room) -> None:
        """Notes that a buffer is being sent."""
        self._busy.append((work, room))
