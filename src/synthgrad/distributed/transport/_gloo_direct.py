"""From GPU to GPU: what frames contain travels by groups of its own, where both ends can.

Headers stay on the channel. One group for each direction: in one, a send and a receive that the
two ends begin in opposite order would wait for each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore

from synthgrad.distributed.protocol import Layout, RecordError, shortened
from synthgrad.distributed.transport._gloo_channel import Sent

_LONGEST = 1000
"""Characters of what an end says."""


@dataclass(frozen=True)
class Endpoint:
    """What an end of an edge says about where its tensors are.

    Attributes:
        kind: of device, as in "cuda".
        place: which one, of all machines.
        library: what it could use, with its version; empty for nothing.
    """

    kind: str = "cpu"
    place: str = ""
    library: str = ""

    def to_record(self) -> dict[str, str]:
        """As it stands in the store."""
        return asdict(self)

    @classmethod
    def from_record(cls, values: Any) -> Endpoint:
        """The inverse; of an end that says nothing, one that has nothing.

        Raises:
            RecordError: it is no such record.
        """
        values = {} if values is None else values
        if not isinstance(values, dict):
            raise RecordError(f"endpoint is {shortened(values)}, expected an object")
        for name in ("kind", "place", "library"):
            value = values.get(name, "")
            if not isinstance(value, str) or len(value) > _LONGEST:
                raise RecordError(
                    f"endpoint has {name} {shortened(value)}, expected a string of at most "
                    f"{_LONGEST}"
                )
        return cls(**{name: values.get(name, "") for name in ("kind", "place", "library")})


def direct(one: Endpoint, other: Endpoint) -> bool:
    """Whether contents go from device to device; both ends come to the same answer.

    They do where each end has a GPU of its own, and both have the same library.
    """
    gpus = one.kind == other.kind == "cuda"
    return gpus and one.place != other.place and bool(one.library) and one.library == other.library


class DataGroup(Protocol):
    """Two processes, the first of which sends and the other receives, in order."""

    def send(self, tensor: Tensor) -> Any:
        """Begins to send a tensor."""
        ...

    def receive(self, tensor: Tensor) -> Any:
        """Begins to receive one."""
        ...

    def wait(self, work: Any) -> None:
        """Waits until it is done, and the host may count on it.

        Raises:
            RuntimeError: it took too long, or the group was closed.
        """
        ...

    def close(self) -> None:
        """Ends what goes on; waits for nothing, and may be called twice."""
        ...


class Library(Protocol):
    """Makes such groups.

    Attributes:
        endpoint: what it says about this end.
        device: where the buffers are.
    """

    endpoint: Endpoint
    device: torch.device

    def group(self, store: Any, rank: int) -> DataGroup:
        """A group of this process and the other; rank 0 sends.

        Raises:
            RuntimeError: there is none to be had.
        """
        ...


class Contents:
    """The contents of frames, over two groups.

    A receive is begun when the header says that there is something to come, not ahead: on a GPU a
    receive that waits keeps a part of it busy, and keeps memory from being freed.

    Args:
        library: makes the groups.
        store: that the two ends alone have.
        rank: 0 for the lower end.

    Raises:
        RuntimeError: the groups cannot be formed.
    """

    def __init__(self, library: Library, store: Any, rank: int) -> None:
        self._device = library.device
        self._groups: list[DataGroup] = []
        try:
            for sender in (0, 1):  # the messages' first, at both ends
                prefix = PrefixStore(f"data{sender}", store)
                self._groups.append(library.group(prefix, rank ^ sender))
                self._try(self._groups[-1], sends=rank == sender)
        except BaseException:
            self.close()
            raise
        self._up, self._down = self._groups[rank], self._groups[1 - rank]
        self._sent: Sent | None = None
        self._incoming: Layout | None = None

    def begin(self, outgoing: Layout, incoming: Layout, capacity: int) -> None:
        """Says how what is sent and what is received lie in memory."""
        self._sent = Sent(lambda: outgoing.room(self._device), capacity + 2, self._up.wait)
        self._incoming = incoming

    def send(self, tensors: Sequence[Tensor], arrived: int) -> None:
        """Sends a frame's contents, before its header; they are copied.

        Args:
            tensors: the contents.
            arrived: how many of all that were sent are known to have arrived.

        Raises:
            RuntimeError: the other end is gone.
        """
        assert self._sent is not None
        room = self._sent.take(arrived)
        room.fill(tensors)
        self._sent.keep(self._up.send(room.buffer), room)

    def receive(self) -> list[Tensor]:
        """The contents of the frame whose header came last; waits for them.

        Raises:
            RuntimeError: the other end is gone, or too slow.
        """
        assert self._incoming is not None
        room = self._incoming.room(self._device)
        self._down.wait(self._down.receive(room.buffer))
        return room.views

    def close(self) -> None:
        """Ends what goes on."""
        for group in self._groups:
            group.close()

    def _try(self, group: DataGroup, *, sends: bool) -> None:
        # The first transfer connects, which takes long, and must not happen between frames.
        probe = torch.zeros(16, dtype=torch.uint8, device=self._device)
        group.wait(group.send(probe) if sends else group.receive(probe))
