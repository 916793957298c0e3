"""A connection of two processes while it lasts: frames one way and the other."""

from __future__ import annotations

import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from synthgrad.distributed.schema import Kind, Layout

_CONTROL, _DATA = 0, 1  # tags
_FIELDS = struct.Struct("10q")


class LinkLost(Exception):
    """The other end is gone, or has been silent for too long."""


@dataclass
class Frame:
    """What came over a link.

    Attributes:
        kind: what it is.
        step: which batch it belongs to.
        rows: examples in it that count; the others fill it up.
        first: whether it is the first of its evaluation.
        last: whether it is the last.
        final: whether it belongs to the evaluation that ends the run.
        tensors: its contents.
        link: which it came over.
    """

    kind: Kind
    step: int = 0
    rows: int = 0
    first: bool = False
    last: bool = False
    final: bool = False
    tensors: tuple[Tensor, ...] = ()
    link: Link | None = None


class Link:
    """Frames over a process group of two.

    Each frame is a small control message, and for those with contents a buffer right behind it.
    Receives for as many as may come are posted ahead: a transfer whose receive is not posted yet
    costs a round trip more.

    Args:
        group: the process group.
        peer: the other's rank in it.
        outgoing: how what this end sends lies in memory.
        incoming: how what it receives does.
        capacity: frames with contents that may be on their way in each direction.
        check: what every frame has to carry (:attr:`Schema.check`).
        timeout: seconds of silence after which the other end is gone.
    """

    def __init__(
        self,
        group: Any,
        peer: int,
        outgoing: Layout,
        incoming: Layout,
        *,
        capacity: int,
        check: int,
        timeout: float,
    ) -> None:
        self._group, self._peer, self._check = group, peer, check
        self._timeout = timedelta(seconds=timeout)
        self._lock = threading.Lock()
        room = capacity + 2
        self._outgoing = _Sent(outgoing.room, room)
        # Signs of life and answers come in between.
        self._outgoing_control = _Sent(_Control, 2 * room + 64)
        self._incoming = _Posted(group, peer, incoming.room, room, _DATA)
        self._incoming_control = _Posted(group, peer, _Control, 2 * room + 64, _CONTROL)
        self._sequence = 0
        self._used = 0  # frames with contents that this end has used
        self._acknowledged = 0  # those of its own that the other has
        self._unanswered_beats = 0
        self._heard: tuple[int, int] | None = None
        self._trips: deque[float] = deque(maxlen=16)

    @property
    def in_flight(self) -> int:
        """Frames with contents that were sent and that the other end has not used yet."""
        return self._sequence - self._acknowledged

    @property
    def answered(self) -> bool:
        """Whether the other end has used anything yet."""
        return self._acknowledged > 0

    @property
    def round_trip(self) -> float | None:
        """Seconds: the shortest of the last measured; None before the first."""
        return min(self._trips, default=None)

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
        """A sign of life, unless too many have gone unanswered already."""
        if self._unanswered_beats < 32:
            self._unanswered_beats += 1
            self.send(Frame(Kind.BEAT))

    def used(self) -> None:
        """Counts a received frame as used; the next frame sent tells the other end."""
        self._used += 1

    def receive(self) -> Frame:
        """The next frame; waits for it.

        Raises:
            LinkLost: the other end is gone, or silent for longer than the timeout.
        """
        try:
            with self._incoming_control.next(self._timeout) as room:
                kind, step, rows, flags, acknowledged, check, *times = _FIELDS.unpack(room.memory)
            if check != self._check:
                raise LinkLost(f"a frame carries the number {check}, expected {self._check}")
            self._acknowledged = max(self._acknowledged, acknowledged)
            self._unanswered_beats = 0
            self._measure(Kind(kind), *times)
            tensors: tuple[Tensor, ...] = ()
            if kind in (Kind.TRAIN, Kind.EVAL, Kind.TARGET):
                with self._incoming.next(self._timeout) as room:
                    tensors = tuple(view.clone() for view in room.views)
        except RuntimeError as error:
            raise LinkLost(_first_line(error)) from None
        first, last, final = (bool(flags & bit) for bit in (4, 1, 2))
        return Frame(Kind(kind), step, rows, first, last, final, tensors)

    def _send(self, frame: Frame) -> None:
        now = time.monotonic_ns()
        sent_there, came_here = self._heard or (0, now)
        flags = frame.last | frame.final << 1 | frame.first << 2
        values = [frame.kind, frame.step, frame.rows, flags, self._used, self._check]
        with self._outgoing_control.next(self._timeout) as control:
            _FIELDS.pack_into(control.memory, 0, *values, now, sent_there, now - came_here, 0)
            self._outgoing_control.keep(
                self._group.send([control.buffer], self._peer, _CONTROL), control
            )
        if frame.tensors:
            self._sequence += 1
            with self._outgoing.next(self._timeout) as data:
                for view, tensor in zip(data.views, frame.tensors, strict=True):
                    view.copy_(tensor)
                self._outgoing.keep(self._group.send([data.buffer], self._peer, _DATA), data)

    def _measure(self, kind: Kind, sent: int, echoed: int, held: int, _: int) -> None:
        now = time.monotonic_ns()
        self._heard = sent, now
        if kind == Kind.BEAT and echoed:
            self._trips.append((now - echoed - held) / 1e9)


class _Control:
    """One control message's buffer, as a tensor and as bytes: a tensor is slow to fill."""

    def __init__(self) -> None:
        self.memory = bytearray(_FIELDS.size)
        self.buffer = torch.frombuffer(self.memory, dtype=torch.uint8)


class _Sent:
    """Buffers for what is being sent, used in turn."""

    def __init__(self, make: Callable[[], Any], count: int) -> None:
        self._free = [make() for _ in range(count)]
        self._busy: deque[tuple[Any, Any]] = deque()

    def next(self, timeout: timedelta) -> _Use:
        if not self._free:
            work, room = self._busy.popleft()
            work.wait(timeout)
            self._free.append(room)
        return _Use(self._free.pop())

    def keep(self, work: Any, room: Any) -> None:
        self._busy.append((work, room))


class _Posted:
    """Receives that are posted ahead, waited for in turn, and posted again once read."""

    def __init__(
        self, group: Any, peer: int, make: Callable[[], Any], count: int, tag: int
    ) -> None:
        self._group, self._peer, self._tag = group, peer, tag
        self._waiting: deque[tuple[Any, Any]] = deque()
        for _ in range(count):
            self._post(make())

    def next(self, timeout: timedelta) -> _Use:
        work, room = self._waiting[0]
        work.wait(timeout)
        self._waiting.popleft()
        return _Use(room, self._post)

    def _post(self, room: Any) -> None:
        self._waiting.append((self._group.recv([room.buffer], self._peer, self._tag), room))


class _Use:
    """A buffer while it is read or written."""

    def __init__(self, room: Any, after: Any = None) -> None:
        self._room, self._after = room, after

    def __enter__(self) -> Any:
        return self._room

    def __exit__(self, kind: Any, *_: Any) -> None:
        if self._after is not None and kind is None:
            self._after(self._room)


def _first_line(error: Exception) -> str:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return text.split("] ", 1)[-1]
