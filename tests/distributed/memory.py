"""A transport within one process: what the contract asks for, and nothing else."""

import threading
from collections import deque
from dataclasses import replace
from typing import Any

from synthgrad.distributed import SchemaError
from synthgrad.distributed.transport.base import Connection, Receives, Sends, Transport


class Memory(Transport):
    """Connects stages that are threads of this process; all of them share one."""

    def __init__(self):
        self.lock = threading.RLock()
        self._ends: dict[tuple[int, int, int], End] = {}

    def connect(self, sender, receiver, says, changed):
        rank = int(isinstance(says, Receives))
        end = End(self, (sender, receiver), rank, says, changed)
        with self.lock:
            self._ends[sender, receiver, rank] = end
        self.bring_together((sender, receiver))
        return end

    def bring_together(self, edge):
        threading.Thread(target=self._meet, args=edge, daemon=True).start()

    def _meet(self, sender, receiver):
        with self.lock:
            below, above = (self._ends.get((sender, receiver, rank)) for rank in (0, 1))
        if below is None or above is None or below.closed or above.closed:
            return
        try:
            above.says.accept(below.says.schema, above.schema)
        except SchemaError as error:
            for end in (below, above):
                end.problem = SchemaError(f"edge to {end.name}: {error}")
                end.notify()
            return
        with self.lock:
            if below.closed or above.closed or below.up or above.up:
                return
            below.wants_message = above.wants_message
            above.schema = below.schema
            below.begin(above)
            above.begin(below)
        below.notify()
        above.notify()


class End(Connection):
    """One end: what comes is put into its inbox by the other."""

    def __init__(self, transport: Memory, edge, rank, says: Any, changed):
        self.name = f"stage {edge[1 - rank]}"
        self.generation, self.problem, self.closed = 0, None, False
        self.says: Any = says
        self.schema = self.says.schema if isinstance(says, Sends) else self.says.known
        self.wants_message = isinstance(says, Receives) and says.wants_message
        self._transport, self._edge, self._rank, self._changed = transport, edge, rank, changed
        self._other: End | None = None
        self._inbox: deque[Any] = deque()
        self._sent = self._used = self._acknowledged = 0

    def begin(self, other):
        self.generation += 1
        self._inbox.clear()
        self._sent = self._used = self._acknowledged = 0
        self._other = other

    def notify(self):
        with self._changed:
            self._changed.notify_all()

    @property
    def up(self):
        return self._other is not None

    @property
    def waiting(self):
        return bool(self._inbox)

    @property
    def in_flight(self):
        return self._sent - self._acknowledged if self.up else 0

    @property
    def answered(self):
        return self.up and self._acknowledged > 0

    @property
    def round_trip(self):
        return 0.0 if self._acknowledged else None

    def send(self, frame, *, answers=None):
        with self._transport.lock:
            other = self._other
            if other is None or (answers and answers.generation not in (0, self.generation)):
                return False
            tensors = ()
            if frame.tensors:
                room = self._layout().room()
                room.fill(frame.tensors)
                tensors = tuple(room.views)
                self._sent += 1
            other._acknowledged = self._used
            other._inbox.append(replace(frame, tensors=tensors, generation=other.generation))
        other.notify()
        return True

    def receive(self):
        with self._transport.lock:
            return self._inbox.popleft() if self._inbox else None

    def used(self, frame):
        self._used += frame.generation == self.generation

    def acknowledge(self):
        with self._transport.lock:
            other = self._other
            if other is not None:
                other._acknowledged = self._used
        if other is not None:
            other.notify()

    def reset(self):
        self._part()
        self._transport.bring_together(self._edge)

    def close(self):
        self.closed = True
        self._part()

    def _part(self):
        with self._transport.lock:
            other, self._other = self._other, None
            if other is not None:
                other._other = None
        self.notify()
        if other is not None:
            other.notify()

    def _layout(self):
        assert self.schema is not None
        return self.schema.target(self.wants_message) if self._rank else self.schema.message()
