"""A stage's end of the edge to the next one: messages go up, targets come back."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from torch import Tensor

from synthgrad.distributed.edge import Edge
from synthgrad.distributed.learner import Learner, Sent
from synthgrad.distributed.link import Frame
from synthgrad.distributed.nccl import Nccl
from synthgrad.distributed.patience import Patience
from synthgrad.distributed.place import PeerError, Place
from synthgrad.distributed.schema import Kind, Schema, dtype_name, named_dtype
from synthgrad.distributed.status import Counters
from synthgrad.distributed.store import Meeting
from synthgrad.distributed.window import Window
from synthgrad.errors import ShapeError

log = logging.getLogger("synthgrad.distributed")
_BRIEFLY = 0.5
"""Seconds for which a restarted stage waits for the next one, if that is gone as well."""


class Outgoing:
    """Sends messages and fits the feedback model to the targets that come for them.

    Args:
        place: the stage's.
        learner: holds the feedback model.
        counters: the stage's.
        schema: what goes up, where it is known from a checkpoint; else the first message says it.
        restarted: whether this process was started again while the others ran on.

    Attributes:
        edge: None until it is known what goes over it.
        done: whether the stages above have finished the run.
        schema: what goes up.
    """

    def __init__(
        self,
        place: Place,
        learner: Learner,
        counters: Counters,
        schema: Schema | None,
        *,
        restarted: bool,
    ) -> None:
        self.place, self.learner, self.counters = place, learner, counters
        self.edge: Edge | None = None
        self.done = False
        self.schema: Schema | None = None
        # When all begin together, the others are waited for; else they are there, or gone.
        first_wait = place.options.patience if schema is None else place.options.timeout
        if restarted and schema is not None:
            first_wait = min(first_wait, _BRIEFLY)
        self._patience = Patience(self.name, place, first_wait=first_wait)
        self._sent: dict[int, Sent] = {}
        self._generation = 0
        self._window = Window(place.options)
        self._last = 0
        self._number = 0
        if schema is not None:  # the shapes are as they were; the options may be others now
            known = (schema.shape, schema.dtype, schema.label_shape, schema.label_dtype)
            self._open(self._schema(*known))

    @property
    def name(self) -> str:
        """How errors and log lines call the stage above."""
        return f"stage {self.place.index + 1}"

    @property
    def window(self) -> int:
        """Messages that may be in flight."""
        return self._window.size(None if self.edge is None else self.edge.round_trip)

    @property
    def waiting(self) -> bool:
        """Whether something came that has not been used."""
        return self.edge is not None and bool(self.edge.inbox)

    def took(self, seconds: float) -> None:
        """Notes what a step's computing took, by which ``window="auto"`` goes."""
        self._window.took(seconds)

    def offer(self, frame: Frame) -> bool:
        """Sends a message if there is room for it now; says whether it was sent."""
        return self._has_room() and self._send(frame)

    def pass_up(self, frame: Frame, *, must: bool = False) -> bool:
        """Sends a frame, or drops it where nobody is there for it.

        Args:
            frame: the frame.
            must: wait for the next stage in any case.

        Returns:
            Whether it was sent.

        Raises:
            SchemaError: the next stage refuses what this one sends.
            PeerError: it must be sent, and the next stage did not come in time.
        """
        edge = self._edge_for(frame)
        waited, told = 0.0, False
        while True:
            self.collect()
            self.place.check(edge)
            if (not frame.tensors or self._has_room()) and self._send(frame):
                return True
            if not self._patience.lasts(edge, waited, must):
                self.counters.dropped += frame.kind == Kind.TRAIN
                self._patience.dropped += frame.kind == Kind.TRAIN
                return False
            if waited > 1 and not told:
                told = True
                log.info("waiting for %s", self.name)
            waited += self._wait(edge)

    def expect(self, frame: Frame, sent: Sent) -> None:
        """Keeps what the target of a message will be fitted with, if one will come."""
        schema = self.schema
        if schema is None or not schema.target_every or frame.step % schema.target_every:
            return
        if self.edge is not None and self.edge.wants_message:
            return  # targets bring their own
        self._sent[frame.number] = sent
        while len(self._sent) > schema.capacity + 2:  # none comes for the oldest any more
            del self._sent[next(iter(self._sent))]

    def await_target(self) -> None:
        """Waits for the targets of all that was sent, as long as the next stage is there."""
        waited = 0.0
        while self._outstanding() and waited < self.place.options.timeout:
            if self.place.out_of_time:
                return
            waited += (spent := self._pause(lambda: not self._outstanding()))
            self.counters.waited_for_target += spent
            self.collect()
        if self._sent:
            self._sent.clear()

    def collect(self) -> None:
        """Uses what has come from above."""
        edge = self.edge
        if edge is None:
            return
        up = edge.up  # asked first: whatever came before the link was lost is in the inbox by then
        self._renew(edge)
        while (frame := edge.take()) is not None:
            if frame.kind == Kind.DONE:
                self.done = True
            if frame.kind == Kind.TARGET:
                self._fit(frame)
                edge.used(frame)
        if not up:
            self._sent.clear()

    def drain(self) -> None:
        """Before leaving: lets the next stage use what was sent, and its targets come."""
        edge = self.edge
        if edge is None or not edge.send(Frame(Kind.STOP)):
            return
        while edge.up and (edge.in_flight or self._sent) and not self.place.out_of_time:
            self._pause(lambda: not edge.up or not (edge.in_flight or self._sent))
            self.collect()

    def await_done(self) -> bool:
        """Waits until the stages above are done; False if the next one was lost before.

        Raises:
            PeerError: it took longer than the patience.
        """
        edge = self.edge
        assert edge is not None
        generation, waited = edge.generation, 0.0
        self.collect()
        while not self.done:
            if not edge.up or edge.generation != generation or self.place.stopping:
                self.collect()  # the last word may have come just before it left
                return self.done
            if waited > self.place.options.patience:
                raise PeerError(
                    f"{self.name} did not finish within {waited:.0f} s after its last message"
                )
            waited += self._pause(lambda: not edge.up)
            self.collect()
        return True

    def close(self) -> None:
        """Says goodbye."""
        if self.edge is not None:
            self.edge.close()

    def _open(self, schema: Schema) -> Edge:
        self.schema = schema
        place = self.place
        options = place.options
        meeting = Meeting(
            place.store, place.index, 0, interface=options.interface, timeout=options.timeout
        )
        library = Nccl(self.learner.device, options)
        edge = Edge(self.name, meeting, 0, options, place.changed, schema=schema, library=library)
        self.edge = edge
        return edge

    def _edge_for(self, frame: Frame) -> Edge:
        """The edge, opened by the first message; checks the others against that."""
        if not frame.tensors:
            if self.edge is None:
                raise PeerError(f"nothing was ever sent to {self.name}: the run has no steps")
            return self.edge
        h, y = frame.tensors
        if not isinstance(h, Tensor) or not h.is_floating_point():
            kind = getattr(h, "dtype", type(h).__name__)
            raise ShapeError(f"a message is one floating-point tensor, got {kind}")
        dtypes = dtype_name(h.dtype), dtype_name(y.dtype)
        found = self._schema(tuple(h.shape), dtypes[0], tuple(y.shape), dtypes[1])
        if self.edge is None:
            return self._open(found)
        assert self.schema is not None
        if found != self.schema:
            wrong = found.differences(self.schema)
            raise ShapeError(f"the message to {self.name} at step {frame.step}: {wrong}")
        return self.edge

    def _schema(
        self, shape: tuple[int, ...], dtype: str, label_shape: tuple[int, ...], label_dtype: str
    ) -> Schema:
        options = self.place.options
        wire = options.message_dtype
        return Schema(
            stages=self.place.stages,
            fingerprint=options.fingerprint,
            shape=shape,
            dtype=dtype,
            wire=dtype if wire is None else dtype_name(wire),
            label_shape=label_shape,
            label_dtype=label_dtype,
            capacity=options.capacity,
            target_every=options.target_every if self.learner.wants_targets else 0,
        )

    def _has_room(self) -> bool:
        edge = self.edge
        return edge is not None and edge.up and edge.in_flight < self.window

    def _renew(self, edge: Edge) -> None:
        """Forgets what went over a link that is no more."""
        if edge.generation != self._generation:
            self._generation = edge.generation
            self._sent.clear()
            self._patience.stalled = False

    def _send(self, frame: Frame) -> bool:
        assert self.edge is not None
        self._renew(self.edge)  # or else what is sent now would be forgotten with what was before
        self._edge_for(frame)
        self._number += 1
        frame.number = self._number
        if not self.edge.send(frame):
            return False
        self._patience.stalled, self._patience.dropped = False, 0
        self.counters.sent += frame.kind == Kind.TRAIN
        self._last = frame.step
        return True

    def _wait(self, edge: Edge) -> float:
        up = edge.up
        spent = self._pause(lambda: self._has_room() or edge.up != up)
        self.counters.waited_for_window += spent if up else 0
        return spent

    def _pause(self, ready: Callable[[], bool]) -> float:
        return self.place.pause(lambda: ready() or self.waiting)

    def _outstanding(self) -> bool:
        return bool(self._sent) and self.edge is not None and self.edge.up

    def _fit(self, frame: Frame) -> None:
        delta, *rest = frame.tensors
        if rest:
            h, y = rest
            assert self.schema is not None
            sent: Sent | None = Sent(h.to(named_dtype(self.schema.dtype)), y, -1, None)
        else:
            sent = self._sent.pop(frame.number, None)
        if sent is None:
            self.counters.late += 1
            return
        device = sent.h.device
        started = time.monotonic()
        self.learner.fit(sent, delta.to(device))
        self.counters.busy += time.monotonic() - started
        self.counters.targets += 1
        self.counters.target_age += max(0, self._last - frame.step)
