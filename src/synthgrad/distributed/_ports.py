"""A stage's ends of its edges: messages come in and are answered, and go up and are answered."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from synthgrad.distributed._flow import Patience, Window
from synthgrad.distributed._learner import Learner
from synthgrad.distributed._place import PeerError, Place
from synthgrad.distributed._status import Counters
from synthgrad.distributed.protocol import (
    Frame,
    Kind,
    Schema,
    SchemaError,
    dtype_name,
    named_dtype,
)
from synthgrad.distributed.transport.base import Connection, Receives, Sends
from synthgrad.errors import ShapeError

log = logging.getLogger("synthgrad.distributed")
_BRIEFLY = 0.5
"""Seconds for which a restarted stage waits for the next one, if that is gone as well."""


class Incoming:
    """Receives messages, and answers them with the errors that they are to be fitted to.

    Args:
        place: the stage's.
        sender: the number of the stage that sends them.
        learner: runs the segment, to see whether it takes the messages.
        counters: the stage's.
        schema: what came in before, where it is known from a checkpoint.

    Attributes:
        edge: to the stage below.
    """

    def __init__(
        self,
        place: Place,
        sender: int,
        learner: Learner,
        counters: Counters,
        schema: Schema | None,
    ) -> None:
        self.place, self.learner, self.counters = place, learner, counters
        self.name = f"stage {sender}"
        self._held: Frame | None = None
        wants = learner.inputs is not None
        says = Receives(self._accept, learner.device, schema, wants_message=wants)
        self.edge = place.transport.connect(sender, place.index, says, place.changed)

    @property
    def schema(self) -> Schema | None:
        """What comes in; None before the first meeting."""
        return self.edge.schema

    @property
    def waiting(self) -> bool:
        """Whether something came that has not been used."""
        return self._held is not None or self.edge.waiting

    def next(self, meanwhile: Callable[[], None], also: Callable[[], bool]) -> Frame | None:
        """The next frame from below; waits for it.

        Args:
            meanwhile: called whenever something happened; uses targets.
            also: whether something happened that has nothing to do with this edge.

        Returns:
            The frame; None for a stage that was asked to stop and has waited long enough.

        Raises:
            SchemaError: the stage below sends what this one cannot take.
            PeerError: nothing came for as long as the patience lasts.
        """
        waited, told = 0.0, False
        while (frame := self.poll()) is None:
            if self.place.out_of_time or (self.place.stopping and not self.edge.up):
                return None
            if waited > self.place.options.patience:
                raise PeerError(
                    f"nothing came from {self.name} for {waited:.0f} s; "
                    f"it is {'there' if self.edge.up else 'gone'}"
                )
            if waited > 1 and not told:
                told = True
                log.info("waiting for %s", self.name)
            spent = self.place.pause(lambda: self.waiting or also())
            self.counters.waited_for_input += spent
            waited += spent
            meanwhile()
        return frame

    def poll(self) -> Frame | None:
        """The next frame from below, if one is there.

        Raises:
            SchemaError: as for :meth:`next`.
        """
        self.edge.check()
        held, self._held = self._held, None
        if held is not None and held.generation == self.edge.generation:
            return held
        frame = self.edge.receive()
        if frame is not None and frame.tensors:
            assert self.schema is not None
            h, y = frame.tensors
            frame.tensors = (
                h.to(self.learner.device, named_dtype(self.schema.dtype)),
                y.to(self.learner.device),
            )
        return frame

    def answer(self, frame: Frame, delta: Tensor | None, h: Tensor | None = None) -> None:
        """Counts a message as used, and sends the error that came back to it.

        Args:
            frame: the message.
            delta: its error; None for none.
            h: the message itself; None for what was sent.
        """
        self.edge.used(frame)
        schema = self.schema
        if schema is None:  # this stage works on predictions, and nobody has come yet
            return
        wanted = bool(schema.target_every) and frame.step % max(1, schema.target_every) == 0
        # Only targets for what this stage made up itself can be more than the messages.
        full = self.edge.wants_message and self.edge.in_flight >= schema.capacity
        if delta is None or not wanted or full:
            self.edge.acknowledge()
            return
        tensors: tuple[Tensor, ...] = (delta,)
        if self.edge.wants_message:
            message, y = frame.tensors
            tensors = (delta, (message if h is None else h).detach(), y)
        target = Frame(Kind.TARGET, frame.step, len(delta), number=frame.number, tensors=tensors)
        self.edge.send(target, answers=frame)

    def put_back(self, frame: Frame) -> None:
        """Keeps a frame that it is not the time for yet; it is the next again."""
        self._held = frame

    def say_done(self) -> None:
        """Tells the stage below that this one is through with the run."""
        self.edge.send(Frame(Kind.DONE))

    def begin_anew(self) -> None:
        """Has the stage below send the end of the run again."""
        self.edge.reset()
        self.place.pause(lambda: not self.edge.up)

    def close(self) -> None:
        """Says goodbye."""
        self.edge.close()

    def _accept(self, schema: Schema, known: Schema | None) -> None:
        """Compares what the stage below says with what this one needs; in the edge's thread.

        Raises:
            SchemaError: they differ, or the segment cannot take such messages.
        """
        options = self.place.options
        wire = options.message_dtype
        expected: dict[str, Any] = {
            "stages": self.place.stages,
            "fingerprint": options.fingerprint,
            "target_every": schema.target_every and options.target_every,
            "wire": schema.dtype if wire is None else dtype_name(wire),
        }
        if known is not None:
            names = ("shape", "dtype", "label_shape", "label_dtype")
            expected |= {name: getattr(known, name) for name in names}
        if wrong := schema.differences(expected):
            raise SchemaError(f"the messages of {self.name} do not fit: {wrong}")
        if known is None and self.learner.inputs is None:  # else the segment is at work already
            example = torch.zeros(
                schema.shape, dtype=named_dtype(schema.dtype), device=self.learner.device
            )
            try:
                self.learner.evaluate(example)
            except Exception as error:
                reason = str(error).splitlines()[0]
                raise SchemaError(
                    f"the segment of stage {self.place.index} cannot take messages "
                    f"{schema.shape} of {schema.dtype}: {reason}"
                ) from None


class Outgoing:
    """Sends messages and fits the feedback model to the targets that come for them.

    Args:
        place: the stage's.
        receiver: the number of the stage that gets them.
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
        receiver: int,
        learner: Learner,
        counters: Counters,
        schema: Schema | None,
        *,
        restarted: bool,
    ) -> None:
        self.place, self.learner, self.counters = place, learner, counters
        self.name = f"stage {receiver}"
        self.edge: Connection | None = None
        self._receiver = receiver
        self.done = False
        self.schema: Schema | None = None
        # When all begin together, the others are waited for; else they are there, or gone.
        first_wait = place.options.patience if schema is None else place.options.timeout
        if restarted and schema is not None:
            first_wait = min(first_wait, _BRIEFLY)
        self._patience = Patience(self.name, place, first_wait=first_wait)
        self._sent: dict[int, Tensor] = {}
        self._generation = 0
        self._window = Window(place.options)
        self._last = 0
        self._number = 0
        if schema is not None:  # the shapes are as they were; the options may be others now
            known = (schema.shape, schema.dtype, schema.label_shape, schema.label_dtype)
            self._open(self._schema(*known))

    @property
    def window(self) -> int:
        """Messages that may be in flight."""
        return self._window.size(None if self.edge is None else self.edge.round_trip)

    @property
    def waiting(self) -> bool:
        """Whether something came that has not been used."""
        return self.edge is not None and self.edge.waiting

    @property
    def up(self) -> bool:
        """Whether the stage above is there."""
        return self.edge is not None and self.edge.up

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
            edge.check()
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

    def expect(self, frame: Frame, message: Tensor) -> None:
        """Keeps a message with its prediction until its target comes, if one will come."""
        schema = self.schema
        if schema is None or not schema.target_every or frame.step % schema.target_every:
            return
        if self.edge is not None and self.edge.wants_message:
            return  # targets bring their own
        self._sent[frame.number] = message
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
        while (frame := edge.receive()) is not None:
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

    def end(self, step: int, count: int) -> bool:
        """Says END, and waits until the stages above are through.

        Args:
            step: of this stage.
            count: frames of the final evaluation.

        Returns:
            Whether they are; if the next one was lost before, all has to be sent again.

        Raises:
            PeerError: it did not come, or took longer than the patience.
        """
        edge = self.edge
        before = 0 if edge is None else edge.generation
        whole = self.pass_up(Frame(Kind.END, step, count), must=True)
        assert self.edge is not None
        return whole and self.edge.generation == before and self._await_done(self.edge)

    def say_done(self) -> bool:
        """Tells the stage above that this one is through; says whether it was there to hear it."""
        return self.edge is None or self.edge.send(Frame(Kind.DONE))

    def _await_done(self, edge: Connection) -> bool:
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

    def _open(self, schema: Schema) -> Connection:
        self.schema = schema
        place = self.place
        says = Sends(schema, self.learner.device)
        self.edge = place.transport.connect(place.index, self._receiver, says, place.changed)
        return self.edge

    def _edge_for(self, frame: Frame) -> Connection:
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

    def _renew(self, edge: Connection) -> None:
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

    def _wait(self, edge: Connection) -> float:
        up = edge.up
        spent = self._pause(lambda: self._has_room() or edge.up != up)
        self.counters.waited_for_window += spent if up else 0
        return spent

    def _pause(self, ready: Callable[[], bool]) -> float:
        return self.place.pause(lambda: ready() or self.waiting)

    def _outstanding(self) -> bool:
        return bool(self._sent) and self.edge is not None and self.edge.up

    def _fit(self, frame: Frame) -> None:
        device = self.learner.device
        delta, *came = frame.tensors
        y: Tensor | None = None
        if came:
            assert self.schema is not None
            message = came[0].to(device, named_dtype(self.schema.dtype))
            y = came[1].to(device)
        elif frame.number in self._sent:
            message = self._sent.pop(frame.number)
        else:
            self.counters.late += 1
            return
        started = time.monotonic()
        self.learner.fit(message, delta.to(device), y)
        self.counters.busy += time.monotonic() - started
        self.counters.targets += 1
        self.counters.target_age += max(0, self._last - frame.step)
