"""Stages that meet at a store, and talk over gloo: for now the only transport."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from synthgrad.distributed.options import UNTIL_MEASURED, Options
from synthgrad.distributed.protocol import Frame, Kind, RecordError, Schema, SchemaError, shortened
from synthgrad.distributed.transport._gloo_direct import Contents, Endpoint, Library, direct
from synthgrad.distributed.transport._gloo_link import Link, LinkLost
from synthgrad.distributed.transport._gloo_nccl import Nccl
from synthgrad.distributed.transport._gloo_store import Meeting, address, answers, check_interface
from synthgrad.distributed.transport.base import Connection, Receives, Sends, Transport
from synthgrad.errors import SynthgradError

_DIRECT_TRIES = 2
"""How often in a row the ends try in vain to connect their GPUs, before they do without."""

log = logging.getLogger("synthgrad.distributed")


class Edge(Connection):
    """One end of an edge. A thread of its own forms it, and forms it again when it is lost.

    Everything here may be called at any time, whether the other end is there or not.

    Args:
        name: what log lines call the stage at the other end.
        meeting: brings the ends together.
        rank: 0 for the lower end, which sends messages; 1 for the upper one.
        options: the run's.
        schema: what goes over it: for the lower end, its own; for the upper one, what did before.
        accept: for the upper end: compares the lower end's schema with what went over it before,
            if anything did; raises SchemaError.
        wants_message: for the upper end: whether its targets travel with the message they are for.
        library: sends tensors from device to device, where the other end can as well; None for no.
        changed: notified whenever anything happens.

    Attributes:
        generation: how often it has been formed.
        inbox: frames that came, oldest first, over the link that is up now.
        problem: why there will never be a link, if there will not: the ends do not fit.
    """

    def __init__(
        self,
        name: str,
        meeting: Meeting,
        rank: int,
        options: Options,
        changed: threading.Condition,
        *,
        schema: Schema | None = None,
        accept: Callable[[Schema, Schema | None], None] | None = None,
        wants_message: bool = False,
        library: Library | None = None,
    ) -> None:
        self.name = name
        self.generation = 0
        self.inbox: deque[Frame] = deque()
        self.problem: SynthgradError | None = None
        self.schema = schema
        self.wants_message = wants_message
        self._meeting, self._rank, self._options = meeting, rank, options
        self._accept = accept
        self._library = library
        self._direct_tries = 0  # without success
        self._changed = changed
        self._link: Link | None = None
        self._trip: float | None = None
        self._closing = threading.Event()
        self._threads = [
            threading.Thread(target=target, name=f"edge to {name}", daemon=True)
            for target in (self._keep, self._beat)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def up(self) -> bool:
        """Whether the other end is there."""
        return self._link is not None

    @property
    def in_flight(self) -> int:
        """Frames with contents that were sent and not used yet; 0 where the other end is gone."""
        link = self._link
        return 0 if link is None else link.in_flight

    @property
    def answered(self) -> bool:
        """Whether the other end is there and has used a frame of this generation."""
        link = self._link
        return link is not None and link.answered

    @property
    def waiting(self) -> bool:
        """Whether the inbox holds anything."""
        return bool(self.inbox)

    @property
    def round_trip(self) -> float | None:
        """Seconds, as measured last; None before."""
        link = self._link
        if link is not None:
            self._trip = link.round_trip or self._trip
        return self._trip

    def send(self, frame: Frame, *, answers: Frame | None = None) -> bool:
        """Sends a frame, if the other end is there; says whether it was.

        Args:
            frame: the frame.
            answers: what came, to which this is the answer. Once the edge has been formed anew, it
                has none: the other end may be another process, which counts from an earlier step.
        """
        link = self._link
        if link is None or (answers is not None and answers.generation not in (0, link.generation)):
            return False
        try:
            link.send(frame)
        except LinkLost as error:
            self._lost(link, str(error))
            return False
        return True

    def receive(self) -> Frame | None:
        """The oldest frame of the inbox, if there is one."""
        with self._changed:
            return self.inbox.popleft() if self.inbox else None

    def used(self, frame: Frame) -> None:
        """Counts a frame with contents as used; the next frame sent tells the other end."""
        link = self._link
        if link is not None and frame.generation == link.generation:
            link.used()

    def acknowledge(self) -> None:
        """Tells the other end at once what has been used, where no frame does so anyway."""
        self.send(Frame(Kind.BEAT))

    def reset(self) -> None:
        """Drops the link, so that both ends begin anew."""
        self.send(Frame(Kind.BYE))

    def close(self) -> None:
        """Says goodbye. The other end sees at once that this one has left."""
        self._closing.set()
        self.send(Frame(Kind.BYE))
        for thread in self._threads:
            thread.join(self._options.timeout + 6)

    def _keep(self) -> None:
        while not self._closing.is_set():
            try:
                link = self._form()
            except SchemaError as error:
                self._give_up(SchemaError(f"edge to {self.name}: {error}"))
                return
            except (RuntimeError, OSError, ValueError) as error:
                log.debug("edge to %s: %s", self.name, str(error).split("\n")[0])
                self._closing.wait(0.1)
                continue
            except Exception as error:  # what nobody has thought of must not end in silence
                kind = type(error).__name__
                self._give_up(SynthgradError(f"edge to {self.name}: {kind}: {error}"))
                return
            if link is None:
                return
            with self._changed:
                self.inbox.clear()
                self.generation += 1
                link.generation = self.generation
                self._link = link
                self._changed.notify_all()
            log.info("%s is there (generation %d)", self.name, self.generation)
            if self._closing.is_set():
                self.send(Frame(Kind.BYE))
            self._listen(link)

    def _give_up(self, problem: SynthgradError) -> None:
        with self._changed:
            self.problem = problem
            self._changed.notify_all()

    def _form(self) -> Link | None:
        # Settled when the group is there: until then it may be the word of a dead process.
        agreed, wanted = self.schema, self.wants_message
        own, others = self._endpoint(), Endpoint()
        contents: Contents | None = None

        def accept(other: dict[str, Any]) -> str | None:
            nonlocal agreed, wanted, others
            others = Endpoint.from_record(other.get("endpoint"))
            if self._rank == 0:
                wanted = other.get("wants_message")
                if not isinstance(wanted, bool):
                    raise RecordError(f"wants_message is {shortened(wanted)}, expected a bool")
                return None
            try:
                schema = Schema.from_json(other.get("schema"))
                assert self._accept is not None
                self._accept(schema, self.schema)
                agreed = schema
            except RecordError:
                raise
            except SchemaError as error:
                return str(error)
            return None

        record: dict[str, Any] = {"wants_message": self.wants_message}
        if self._rank == 0:
            assert self.schema is not None
            record = {"schema": self.schema.to_json()}

        def extend(store: Any) -> None:
            nonlocal contents
            if direct(own, others):
                assert self._library is not None
                self._direct_tries += 1
                contents = Contents(self._library, store, self._rank)
                self._direct_tries = 0

        record["endpoint"] = own.to_record()
        try:
            group = self._meeting.form(record, accept, self._closing, extend)
            if group is None:
                return None
            assert agreed is not None
            self.schema, self.wants_message = agreed, wanted
            return self._link_over(group, contents)
        except BaseException:
            if contents is not None:
                contents.close()
            raise

    def _link_over(self, group: Any, contents: Contents | None) -> Link:
        schema = self.schema
        assert schema is not None
        message, target = schema.message(), schema.target(self.wants_message)
        outgoing, incoming = (message, target) if self._rank == 0 else (target, message)
        return Link(
            group,
            1 - self._rank,
            outgoing,
            incoming,
            capacity=schema.capacity,
            posted=UNTIL_MEASURED if self._options.window == "auto" else None,
            check=schema.check,
            timeout=self._options.timeout,
            contents=contents,
        )

    def _endpoint(self) -> Endpoint:
        """What this end says about where its tensors are."""
        if self._library is None:
            return Endpoint()
        if self._direct_tries == _DIRECT_TRIES:
            log.warning("edge to %s: nothing goes from GPU to GPU; going by the CPU", self.name)
        if self._direct_tries >= _DIRECT_TRIES:
            self._direct_tries += 1
            return Endpoint()
        return self._library.endpoint

    def _listen(self, link: Link) -> None:
        try:
            while self._link is link:
                frame = link.receive()
                if frame.kind == Kind.BYE:
                    self.send(Frame(Kind.BYE))
                    self._lost(link, "it has left")
                    return
                with self._changed:
                    if frame.kind != Kind.BEAT:
                        self.inbox.append(frame)
                    self._changed.notify_all()
        except LinkLost as error:
            self._lost(link, str(error))
        except Exception as error:
            self._lost(link, f"{type(error).__name__}: {error}")

    def _lost(self, link: Link, why: str) -> None:
        with self._changed:
            if self._link is not link:
                return
            self._link = None
            self._changed.notify_all()
        link.close()
        if not self._closing.is_set():
            log.info("%s is gone: %s", self.name, why)

    def _beat(self) -> None:
        # Often enough that the other end never takes a long step for silence.
        while not self._closing.wait(min(0.25, self._options.timeout / 8)):
            link = self._link
            if link is not None:
                try:
                    link.beat()
                except LinkLost as error:
                    self._lost(link, str(error))


class Gloo(Transport):
    """Stages that meet at a store, each edge a gloo group of two; from GPU to GPU by NCCL.

    Args:
        store: where the stages meet, "host:port".
        options: the run's.

    Raises:
        ArgumentError: the address is none, or this machine has no such network interface.
    """

    def __init__(self, store: str, options: Options) -> None:
        address(store)
        check_interface(options.interface)
        self._store, self._options = store, options

    def connect(
        self, sender: int, receiver: int, says: Sends | Receives, changed: threading.Condition
    ) -> Edge:
        """This stage's end of an edge."""
        rank, given = 0, {}
        if isinstance(says, Receives):
            rank = 1
            given = {"accept": says.accept, "wants_message": says.wants_message}
        edge = str(sender) if receiver == sender + 1 else f"{sender}-{receiver}"
        options = self._options
        interface, timeout = options.interface, options.timeout
        return Edge(
            f"stage {sender if rank else receiver}",
            Meeting(self._store, edge, rank, interface=interface, timeout=timeout),
            rank,
            options,
            changed,
            schema=says.known if isinstance(says, Receives) else says.schema,
            library=Nccl(says.device, options),
            **given,
        )

    def trouble(self) -> str:
        """Whether a store answers at all; waits for it for two seconds at most."""
        return "" if answers(self._store) else f"nor does a store answer at {self._store}"
