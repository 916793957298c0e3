"""Where the processes of a benchmark run: on this machine's loopback, or on hosts with a link."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TypeVar

from benchmarks.link import relay
from benchmarks.link.namespace import Namespace
from benchmarks.link.tun import DEVICE, open_tun
from synthgrad.errors import ArgumentError

T = TypeVar("T")


class Place(Protocol):
    """Hosts, numbered from 0, that reach each other."""

    @property
    def delay(self) -> float:
        """Seconds from one host to another."""
        ...

    @property
    def device(self) -> str:
        """The network interface through which they do."""
        ...

    def address(self, host: int) -> str:
        """The IPv4 address of a host."""
        ...

    def call(self, host: int, function: Callable[[], T]) -> T:
        """Runs a function in this process, on a host's network."""
        ...

    def entrance(self, host: int) -> str | None:
        """What another process hands to :func:`enter` to be on that host; None where it is."""
        ...


class Loopback:
    """All hosts are this machine."""

    delay = 0.0
    device = "lo"

    def address(self, host: int) -> str:
        """The loopback's."""
        return "127.0.0.1"

    def call(self, host: int, function: Callable[[], T]) -> T:
        """Calls it."""
        return function()

    def entrance(self, host: int) -> str | None:
        """Every process is there already."""
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return


class Network:
    """Hosts with a network namespace each, in which every packet to another host takes ``delay``.

    Use it as a context manager. When the block ends, however it ends, nothing is left of it: the
    devices and namespaces have no names and go with the processes inside, and the process that
    carries the packets ends with this one.

    Args:
        hosts: how many, at most 250.
        delay: seconds that a packet is held, in each direction. Bandwidth is not limited.

    Raises:
        ArgumentError: an argument is outside its range.
        OSError: namespaces cannot be made here; :func:`why_not` tells beforehand.
    """

    device = DEVICE

    def __init__(self, hosts: int, delay: float) -> None:
        if not 1 <= hosts <= 250:
            raise ArgumentError(f"hosts: expected 1 to 250, got {hosts}")
        if not 0 <= delay < float("inf"):
            raise ArgumentError(f"delay: expected seconds, 0 or more, got {delay}")
        self.delay = delay
        self._spaces: list[Namespace] = []
        self._relay: subprocess.Popen[bytes] | None = None
        tuns: list[int] = []
        try:
            for host in range(hosts):
                space = Namespace()
                self._spaces.append(space)
                tuns.append(space.call(lambda h=host: open_tun(self.address(h), "255.255.255.0")))
            self._relay = subprocess.Popen(
                [
                    sys.executable,
                    "-S",
                    "-E",
                    str(Path(relay.__file__)),
                    str(delay),
                    *map(str, tuns),
                ],
                stdin=subprocess.PIPE,
                pass_fds=tuns,
                start_new_session=True,  # Ctrl-C is for whoever holds the link
            )
        except BaseException:
            self.close()
            raise
        finally:
            for tun in tuns:
                os.close(tun)

    def address(self, host: int) -> str:
        """Of a host, in a network that no other namespace sees."""
        return f"10.77.0.{host + 1}"

    def call(self, host: int, function: Callable[[], T]) -> T:
        """Runs a function in a thread inside; processes and sockets that it makes stay there."""
        return self._spaces[host].call(function)

    def entrance(self, host: int) -> str | None:
        """Good for as long as this process holds the network."""
        return self._spaces[host].path

    @property
    def cpu_seconds(self) -> float:
        """What carrying the packets has cost so far, of the same cores that the hosts use."""
        assert self._relay is not None
        fields = Path(f"/proc/{self._relay.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """Ends the link; processes inside stay, and reach nobody."""
        if self._relay is not None:
            assert self._relay.stdin is not None
            self._relay.stdin.close()
            self._relay.wait()
            self._relay = None
        while self._spaces:
            self._spaces.pop().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self.close()


def why_not() -> str | None:
    """Why hosts with a link cannot be had on this machine; None where they can."""
    try:
        Network(1, 0.0).close()
    except OSError as error:
        return f"network namespaces with TUN devices cannot be made here: {error}"
    return None
