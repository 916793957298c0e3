"""A connection of two processes while it lasts: frames one way and the other."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from synthgrad.distributed.protocol import Frame, Kind, Layout
from synthgrad.distributed.transport._gloo_channel import Channel
from synthgrad.distributed.transport._gloo_direct import Contents

_TRIPS = 32
_UNANSWERED = 32
"""Signs of life in a row, after which no more are sent to an end that says nothing."""


class LinkLost(Exception):
    """The other end is gone, or has been silent for too long."""


class Link:
    """Frames with what both ends have to know of each other: signs of life, and what was used.

    Args:
        group: the process group of two.
        peer: the other's rank in it.
        outgoing: how what this end sends lies in memory.
        incoming: how what it receives does.
        capacity: frames with contents that may be on their way in each direction.
        posted: those for which there is room at first; more as they come.
        check: what every frame has to carry (:attr:`Schema.check`).
        timeout: seconds of silence after which the other end is gone.
        contents: what tensors travel by; None for the process group, with the rest of the frame.

    Attributes:
        generation: of the edge, which gives it to the frames that come.
    """

    def __init__(
        self,
        group: Any,
        peer: int,
        outgoing: Layout,
        incoming: Layout,
        *,
        capacity: int,
        posted: int | None = None,
        check: int,
        timeout: float,
        contents: Contents | None = None,
    ) -> None:
        self.generation = 0
        self._check = check
        self._contents = contents
        if contents is not None:
            contents.begin(outgoing, incoming, capacity)
            outgoing = incoming = Layout([])
        self._lock = threading.Lock()
        self._channel = Channel(
            group,
            peer,
            outgoing,
            incoming,
            posted=capacity if posted is None else posted,
            capacity=capacity,
            timeout=timeout,
        )
        self._sent = 0  # frames with contents
        self._used = 0  # those of the other end that this one has used
        self._acknowledged = 0  # those of its own that the other has
        self._quiet = True
        self._unanswered_beats = 0
        self._heard: tuple[int, int] | None = None
        self._trips: deque[float] = deque(maxlen=_TRIPS)

    @property
    def in_flight(self) -> int:
        """Frames with contents that were sent and that the other end has not used yet."""
        return self._sent - self._acknowledged

    @property
    def answered(self) -> bool:
        """Whether the other end has used anything yet."""
        return self._acknowledged > 0

    @property
    def round_trip(self) -> float | None:
        """Seconds: the shortest of the last measured; None before the first."""
        return min(tuple(self._trips), default=None)

    def send(self, frame: Frame) -> None:
        """Sends a frame; its tensors are copied, to the type that travels.

        Raises:
            LinkLost: the other end is gone.
        """
        with self._lock:
            try:
                self._send(frame)
            except RuntimeError as error:
                raise LinkLost(_first_line(error)) from None

    def beat(self) -> None:
        """A sign of life, unless a frame was one since the last call, or too many are unanswered.

        Raises:
            LinkLost: the other end is gone.
        """
        if self._quiet and self._unanswered_beats < _UNANSWERED:
            self._unanswered_beats += 1
            self.send(Frame(Kind.BEAT))
        self._quiet = True

    def used(self) -> None:
        """Counts a received frame as used; the next frame sent tells the other end."""
        self._used += 1

    def close(self) -> None:
        """Ends what goes on; to be called when the link is lost."""
        if self._contents is not None:
            self._contents.close()

    def receive(self) -> Frame:
        """The next frame; waits for it.

        Raises:
            LinkLost: the other end is gone, or silent for longer than the timeout.
        """
        try:
            fields, tensors = self._channel.receive(_has_contents)
            if self._contents is not None and _has_contents(fields):
                tensors = self._contents.receive()
        except RuntimeError as error:
            raise LinkLost(_first_line(error)) from None
        check, kind, step, rows, flags, number, acknowledged, in_flight, *times = fields
        if check != self._check:
            raise LinkLost(f"a frame carries the number {check}, expected {self._check}")
        try:
            kind = Kind(kind)
        except ValueError:
            raise LinkLost(f"a frame is of kind {kind}, which there is none of") from None
        self._acknowledged = max(self._acknowledged, acknowledged)
        self._unanswered_beats = 0
        self._measure(*times)
        self._channel.make_room(in_flight)
        first, last, final = (bool(flags & bit) for bit in (4, 1, 2))
        contents = tuple(tensors)
        return Frame(kind, step, rows, first, last, final, number, contents, self.generation)

    def _send(self, frame: Frame) -> None:
        self._quiet = False
        self._sent += bool(frame.tensors)
        flags = frame.last | frame.final << 1 | frame.first << 2
        now = time.monotonic_ns()
        sent_there, came_here = self._heard or (0, now)
        fields = (self._check, frame.kind, frame.step, frame.rows, flags, frame.number, self._used)
        fields = (*fields, self.in_flight, now, sent_there, now - came_here, 0)
        tensors = frame.tensors
        if self._contents is not None and tensors:
            self._contents.send(tensors, self._acknowledged)
            tensors = ()
        self._channel.send(fields, tensors, self._acknowledged)

    def _measure(self, sent: int, echoed: int, held: int, _: int) -> None:
        now = time.monotonic_ns()
        self._heard = sent, now
        if echoed:
            self._trips.append((now - echoed - held) / 1e9)


def _has_contents(fields: Sequence[int]) -> bool:
    return fields[1] in (Kind.TRAIN, Kind.EVAL, Kind.TARGET)


def _first_line(error: Exception) -> str:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return text.split("] ", 1)[-1]
