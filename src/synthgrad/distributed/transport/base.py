"""What carries frames between two stages: what is promised, and nothing of how it is kept.

An edge leads from one stage, its sender, to another, its receiver. Messages go up it, targets
come back down it, and each of the two stages holds a :class:`Connection` for its end. A stage with
several receivers, or several senders, has a connection for each; all of them notify one condition,
so that it can wait for whichever has something. Every transport promises:

- **Order, and at most once.** What one end sends arrives at the other in the order in which it was
  sent, each frame whole and once; or, from some frame on, nothing arrives any more.
- **Loss is told.** From the moment at which both ends have found each other until one of them
  leaves, dies or is silent for too long is one *generation*. Its end is seen at both ends: ``up``
  is False, once the last frame that came can be received. The transport connects again by itself,
  as often as needed; no frame comes over into a later generation.
- **Only what fits.** A generation begins when the two ends have compared what they say of
  themselves (:class:`Sends`, :class:`Receives`). Where one refuses the other, both hear why, and
  there is none.
- **Bounded memory.** How large a frame is, is known from the schema before any memory is taken for
  it. A sender keeps ``in_flight`` below the schema's capacity; then no end holds more frames with
  contents than that in each direction, however slow the other is.
- **Nobody waits.** No method waits for the other end, whether it is there or not; but for
  ``close``, which may take a little longer than the timeout.

Methods may be called from any thread. ``tests/distributed/test_every_transport.py`` is the promise
as a test; a new transport is a row in it.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch

from synthgrad.distributed.protocol import Frame, Schema
from synthgrad.errors import SynthgradError


@dataclass(frozen=True)
class Sends:
    """What the sender of an edge says of itself.

    Attributes:
        schema: of what it sends.
        device: where its tensors are.
    """

    schema: Schema
    device: torch.device


@dataclass(frozen=True)
class Receives:
    """What the receiver of an edge says of itself.

    Attributes:
        accept: compares a sender's schema with the one that was agreed on before, if any was;
            raises :class:`SchemaError`. Called from a thread of the transport's.
        device: where its tensors are.
        known: what was agreed on before, perhaps by an earlier process.
        wants_message: whether its targets travel with the message that they are for.
    """

    accept: Callable[[Schema, Schema | None], None]
    device: torch.device
    known: Schema | None = None
    wants_message: bool = False


class Connection(ABC):
    """One end of an edge, which outlives the process at the other end.

    Attributes:
        name: what errors and log lines call the stage at the other end.
        generation: how often the other end has been there; 0 before the first time.
        schema: of the messages; at the receiver's end None before the first generation.
        wants_message: whether targets travel with the message that they are for.
        problem: why there will never be a generation any more, where there will not.
    """

    name: str
    generation: int
    schema: Schema | None
    wants_message: bool
    problem: SynthgradError | None

    @property
    @abstractmethod
    def up(self) -> bool:
        """Whether the other end is there."""

    @property
    @abstractmethod
    def waiting(self) -> bool:
        """Whether a frame has come that was not taken; asked often."""

    @property
    @abstractmethod
    def in_flight(self) -> int:
        """Frames with contents that were sent and not used yet; 0 where the other end is gone."""

    @property
    @abstractmethod
    def answered(self) -> bool:
        """Whether the other end is there and has used a frame of this generation."""

    @property
    @abstractmethod
    def round_trip(self) -> float | None:
        """Seconds there and back, as measured last; None before."""

    @abstractmethod
    def send(self, frame: Frame, *, answers: Frame | None = None) -> bool:
        """Sends a frame, if the other end is there; says whether it was.

        Args:
            frame: the frame; its tensors may be changed again after the call.
            answers: what came, to which this is the answer. In a later generation there is none:
                the other end may be another process, which counts from an earlier step.
        """

    @abstractmethod
    def receive(self) -> Frame | None:
        """The oldest frame that has come, with its generation; None where there is none."""

    @abstractmethod
    def used(self, frame: Frame) -> None:
        """Counts a frame with contents as used; the next frame sent tells the other end."""

    @abstractmethod
    def acknowledge(self) -> None:
        """Tells the other end at once what has been used, where no frame does so anyway."""

    @abstractmethod
    def reset(self) -> None:
        """Ends the generation, so that both ends begin anew."""

    @abstractmethod
    def close(self) -> None:
        """Leaves; the other end sees it at once."""

    def check(self) -> None:
        """Raises what keeps the two ends apart for good, if anything does.

        Raises:
            SynthgradError: :attr:`problem`.
        """
        if self.problem is not None:
            raise self.problem


class Transport(ABC):
    """Connects a stage with others."""

    @abstractmethod
    def connect(
        self, sender: int, receiver: int, says: Sends | Receives, changed: threading.Condition
    ) -> Connection:
        """This stage's end of an edge; returns at once, and looks for the other end from then on.

        Args:
            sender: the number of the stage that sends messages.
            receiver: that of the stage that receives them.
            says: what this end is, and says of itself.
            changed: notified whenever anything happens.
        """

    def trouble(self) -> str:
        """Why another stage may not come, for an error; empty where nothing is known."""
        return ""
