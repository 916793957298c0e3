"""The store: where stages find each other. Nothing else goes through it."""

from __future__ import annotations

import ipaddress
import json
import socket
import threading
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from torch._C._distributed_c10d import PrefixStore, TCPStore
from torch.distributed import ProcessGroupGloo

from synthgrad.distributed.protocol import RecordError, SchemaError, shortened
from synthgrad.distributed.transport._gloo_bounded import Bounded
from synthgrad.errors import ArgumentError

Accept = Callable[[dict[str, Any]], str | None]
"""Looks at the other end's record; returns why it is refused, or None; may raise RecordError."""

Extend = Callable[[Any], None]
"""Given a store that the two ends of an edge alone have; may raise RuntimeError."""

_LARGEST_RECORD = 1 << 16
"""Bytes; what stages write has about one thousand."""
_LONGEST_REFUSAL = 2000
_NAME = 32
"""Characters of the name of an attempt."""
_POLL = 0.01
_SLOW_POLL = 0.1
"""Seconds between looks at the store, once the other end has been away for a while."""
_LONGEST_PAUSE = 60.0
"""Seconds at most before a store that hangs is tried again while it still does."""


def serve(port: int = 0, host: str = "127.0.0.1") -> TCPStore:
    """Opens the store in this process, for as long as the result is kept.

    Whoever reaches its port can read and write it, and so take a stage's place: there is no
    password. On loopback those are the programs of this machine.

    Args:
        port: 0 for any that is free; the result's ``port`` says which.
        host: the address to listen on. Every interface is "0.0.0.0", or "::" with IPv6, spelled
            out: nothing else that would mean it is taken for it.

    Raises:
        ArgumentError: it cannot listen there, or ``host`` means every interface in another way.
    """
    if not isinstance(port, int) or isinstance(port, bool) or not 0 <= port < 65536:
        raise ArgumentError(f"port must be a number from 0 to 65535, got {port!r}")
    check_host(host)
    try:
        family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, ValueError) as error:
        raise ArgumentError(f"the store cannot listen on {host!r}: {error}") from None
    if host not in _EVERY and _is_every(str(where[0])):
        raise _means_every(host)
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise ArgumentError(f"the store cannot listen on {host}:{port}: {error}") from None
    port = listener.getsockname()[1]
    # TCPStore itself would listen on every interface; it takes over a socket that does not.
    return TCPStore(
        str(where[0]),
        port,
        is_master=True,
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
        timeout=timedelta(seconds=30),
    )


_EVERY = ("0.0.0.0", "::")


def check_host(host: str) -> None:
    """Refuses what is no address, or would mean every one of this machine without saying so.

    Raises:
        ArgumentError: it is such a value.
    """
    if not isinstance(host, str) or not host.strip() or "\0" in host:
        raise ArgumentError(
            f"host must be an address or a name, got {host!r}; for every interface of this "
            'machine, say "0.0.0.0" or "::"'
        )
    if host in _EVERY:
        return
    try:  # such as "0", "0x0" and "::0"; asks nobody
        found = socket.getaddrinfo(host.strip("[] "), None, flags=socket.AI_NUMERICHOST)
    except (OSError, ValueError):
        found = []
    if host in ("*", "<broadcast>") or any(_is_every(str(address[0])) for *_, address in found):
        raise _means_every(host)


def _is_every(address: str) -> bool:
    found = ipaddress.ip_address(address.split("%")[0])
    inner = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (inner or found).is_unspecified


def _means_every(host: str) -> ArgumentError:
    return ArgumentError(
        f"host {host!r} means every interface of this machine; where that is meant, say "
        '"0.0.0.0" or "::"'
    )


def address(store: str) -> tuple[str, int]:
    """Host and port of "host:port".

    Raises:
        ArgumentError: it is not of that form.
    """
    host, _, port = store.rpartition(":") if isinstance(store, str) else ("", "", "")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    whole = port.isascii() and port.isdigit() and len(port) < 6 and 0 < int(port) < 65536
    if not host or not whole:
        raise ArgumentError(f'store must be "host:port", got {store!r}')
    check_host(host)
    return host, int(port)


def check_interface(name: str | None) -> None:
    """Looks whether this machine has a network interface; None always is.

    Raises:
        ArgumentError: it has not; says which it has.
    """
    there = [found for _, found in socket.if_nameindex()]
    if name is not None and name not in there:
        raise ArgumentError(
            f"interface: there is no {name!r} on this machine, only {', '.join(there)}"
        )


def answers(store: str) -> bool:
    """Whether anybody listens where the store should be; waits for two seconds at most."""
    try:
        with socket.create_connection(address(store), timeout=2.0):
            return True
    except OSError:
        return False


def probe(store: str, timeout: float = 5.0) -> None:
    """Looks whether a store answers.

    Args:
        store: "host:port".
        timeout: seconds to wait for its answer.

    Raises:
        ArgumentError: none does.
    """
    host, port = address(store)
    limit = timedelta(seconds=2 * timeout)  # torch prints a trace when its own limit ends

    def ask(attempt: Bounded) -> None:
        with attempt.limit():
            TCPStore(host, port, is_master=False, timeout=limit).check(["edge0/0"])

    try:
        socket.create_connection((host, port), timeout=timeout).close()  # says no at once
        Bounded(ask, timeout, threading.Event()).result()
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ArgumentError(f"no store answers at {store}: {reason}") from None


def read_record(data: bytes, where: str) -> dict[str, Any]:
    """What an end of an edge wrote into the store.

    Args:
        data: as it stands there.
        where: its key.

    Returns:
        A record with a ``name``, what it has ``seen`` and why it ``refused``; all else in it is
        for the edge to check.

    Raises:
        RecordError: it is nothing of the kind; says in what.
    """
    wrong = _no_record(where)
    if len(data) > _LARGEST_RECORD:
        raise RecordError(f"{wrong}{len(data)} bytes, expected at most {_LARGEST_RECORD}")
    try:
        record = json.loads(data)
    except (ValueError, RecursionError):
        raise RecordError(f"{wrong}it is not JSON, but begins with {data[:40]!r}") from None
    if not isinstance(record, dict):
        raise RecordError(f"{wrong}expected an object, got {type(record).__name__}")
    for name, longest in (("name", _NAME), ("seen", _NAME), ("refused", _LONGEST_REFUSAL)):
        value = record.get(name)
        if not isinstance(value, str) or len(value) > longest or (name == "name" and not value):
            raise RecordError(
                f"{wrong}{name!r} is {shortened(value)}, expected a string of at most {longest}"
            )
    return record


def _no_record(where: str) -> str:
    return f"the store at {where!r} holds no record of a stage: "


class Meeting:
    """Brings the two ends of an edge together, each time anew.

    Each end writes a record with a name made up for this attempt, and the name of the other's
    attempt that it has seen. When both have seen each other, they form a group under both names.
    So a record that a dead process left, or that one wrote before it was stopped for a while, is
    never answered; and a store that lost everything only has to be there again.

    Args:
        store: "host:port".
        edge: its name among all edges; in a chain, the number of the stage below it.
        rank: 0 below, 1 above.
        interface: the network interface to use; None for that which leads to the store.
        timeout: seconds for which the store, and then the other end, are waited for at a time.
    """

    def __init__(
        self, store: str, edge: int | str, rank: int, *, interface: str | None, timeout: float
    ) -> None:
        self._host, self._port = address(store)
        self._edge, self._rank = edge, rank
        self._interface = interface
        self._limit = timeout
        self._timeout = min(timeout, 5.0)
        self._client: TCPStore | None = None
        self._stuck: list[Bounded] = []

    def form(
        self,
        record: dict[str, Any],
        accept: Accept,
        closing: threading.Event,
        extend: Extend | None = None,
    ) -> Any | None:
        """Waits for the other end, and forms a group with it; None if told to close.

        Args:
            record: what this end says to the other.
            accept: looks at what the other end says.
            closing: set when it is time to leave.
            extend: called once the group is there, with a store that the two ends alone have; may
                form more.

        Raises:
            RuntimeError: the store or the other end is gone; to be tried again.
            SchemaError: one end refused the other.
            RecordError: what stands in the store in the other's place is nothing of the kind.
        """
        # A store that hangs answers nothing, and its client has no limit of its own: each call
        # that never returned keeps a thread, so there are fewer and fewer of them.
        self._stuck = [attempt for attempt in self._stuck if attempt.running]
        pause = min(self._limit * (2 ** len(self._stuck) - 1), _LONGEST_PAUSE)
        end = time.monotonic() + pause
        while self._stuck and all(a.running for a in self._stuck) and time.monotonic() < end:
            if closing.wait(min(_SLOW_POLL, pause)):
                return None
        attempt = Bounded(
            lambda attempt: self._form(attempt, record, accept, extend), self._limit, closing
        )
        try:
            return attempt.result()
        except SchemaError:
            raise
        except (RuntimeError, OSError, ValueError):
            self._client = None  # a store that was started again wants new connections
            if attempt.running:
                self._stuck.append(attempt)
            raise

    def _form(
        self, attempt: Bounded, record: dict[str, Any], accept: Accept, extend: Extend | None
    ) -> Any | None:
        timeout = timedelta(seconds=self._timeout)
        client = self._client
        if client is None:
            with attempt.limit():
                client = TCPStore(self._host, self._port, is_master=False, timeout=timeout)
        self._client = client
        mine, theirs = (f"edge{self._edge}/{rank}" for rank in (self._rank, 1 - self._rank))
        own = {**record, "name": uuid.uuid4().hex, "seen": "", "refused": ""}
        said = ""
        with attempt.limit():
            self._forget_groups(client)

        def say() -> None:
            nonlocal said
            said = json.dumps(own)
            with attempt.limit():
                client.set(mine, said)

        def look() -> dict[str, Any] | None:
            with attempt.limit():
                both = client.multi_get([mine, theirs]) if client.check([mine, theirs]) else None
                there = both[0] if both else client.check([mine]) and client.get(mine)
            # A store that was started again has nothing; one that hung may read old words last.
            if not there or there != said.encode():
                say()
            return read_record(both[1], theirs) if both else None

        say()
        soon = time.monotonic() + 10.0
        while not attempt.closing.wait(_POLL if time.monotonic() < soon else _SLOW_POLL):
            if (other := look()) is None:
                continue
            if other["name"] != own["seen"]:
                try:
                    refusal, wrong = accept(other), None
                except RecordError as error:
                    wrong = RecordError(f"{_no_record(theirs)}{error}")
                    refusal = str(wrong)
                own |= {"seen": other["name"], "refused": (refusal or "")[:_LONGEST_REFUSAL]}
                say()
                if wrong is not None:
                    raise wrong
            if other["seen"] == own["name"]:  # it lives: only now does it count what it says
                if own["refused"]:
                    raise SchemaError(own["refused"])
                if other["refused"]:
                    raise SchemaError(f"refused by the other end: {other['refused']}")
                name, seen = own["name"], own["seen"]
                names = (name, seen) if self._rank == 0 else (seen, name)
                store = PrefixStore(f"edge{self._edge}/{names[0]}-{names[1]}", client)
                with attempt.limit(3):  # the other end may be slow as well
                    group = ProcessGroupGloo(store, self._rank, 2, self._options())  # pyright: ignore[reportCallIssue, reportArgumentType]
                if extend is not None:
                    with attempt.limit(3):
                        extend(store)
                return group
        return None

    def _forget_groups(self, client: TCPStore) -> None:
        """Deletes what was left of earlier groups of this edge, all of which ended with this end.

        Torch has the addresses of a group under its own keys. So a store holds no more of an edge
        than two records and one group, however often it is formed.
        """
        if not hasattr(client, "list_keys"):  # in older versions of torch
            return
        start = f"edge{self._edge}/"
        for key in client.list_keys():
            if key.startswith(start) and key not in (f"{start}0", f"{start}1"):
                client.delete_key(key)

    def _options(self) -> Any:
        options = ProcessGroupGloo._Options()  # pyright: ignore[reportAttributeAccessIssue]
        if self._interface is not None:
            device = ProcessGroupGloo.create_device(interface=self._interface)
        else:
            device = ProcessGroupGloo.create_device(hostname=self._own_address())
        options._devices = [device]
        options._timeout = timedelta(seconds=self._timeout)
        return options

    def _own_address(self) -> str:
        """The address from which the store is reached."""
        family, kind, _, _, where = socket.getaddrinfo(
            self._host, self._port, type=socket.SOCK_DGRAM
        )[0]
        with socket.socket(family, kind) as probe:
            probe.connect(where)  # sends nothing
            return probe.getsockname()[0]
