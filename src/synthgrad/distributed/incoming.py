"""A stage's end of the edge to the one before it: messages come in, their errors go down."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from synthgrad.distributed.edge import Edge
from synthgrad.distributed.learner import Learner
from synthgrad.distributed.link import Frame
from synthgrad.distributed.nccl import Nccl
from synthgrad.distributed.place import PeerError, Place
from synthgrad.distributed.schema import Kind, Schema, SchemaError, dtype_name, named_dtype
from synthgrad.distributed.status import Counters
from synthgrad.distributed.store import Meeting

log = logging.getLogger("synthgrad.distributed")


class Incoming:
    """Receives messages, and answers them with the errors that they are to be fitted to.

    Args:
        place: the stage's.
        learner: runs the segment, to see whether it takes the messages.
        counters: the stage's.
        schema: what came in before, where it is known from a checkpoint.

    Attributes:
        edge: to the stage below.
    """

    def __init__(
        self, place: Place, learner: Learner, counters: Counters, schema: Schema | None
    ) -> None:
        self.place, self.learner, self.counters = place, learner, counters
        options = place.options
        meeting = Meeting(
            place.store, place.index - 1, 1, interface=options.interface, timeout=options.timeout
        )
        self.edge = Edge(
            self.name,
            meeting,
            1,
            options,
            place.changed,
            schema=schema,
            accept=self._accept,
            wants_message=learner.inputs is not None,
            library=Nccl(learner.device, options),
        )

    @property
    def schema(self) -> Schema | None:
        """What comes in; None before the first meeting."""
        return self.edge.schema

    @property
    def name(self) -> str:
        """How errors and log lines call the stage below."""
        return f"stage {self.place.index - 1}"

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
            spent = self.place.pause(lambda: bool(self.edge.inbox) or also())
            self.counters.waited_for_input += spent
            waited += spent
            meanwhile()
        return frame

    def poll(self) -> Frame | None:
        """The next frame from below, if one is there.

        Raises:
            SchemaError: as for :meth:`next`.
        """
        self.place.check(self.edge)
        frame = self.edge.take()
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
