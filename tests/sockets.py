"""Where processes listen, as the kernel's tables say."""

import ipaddress
import os
import socket
from contextlib import suppress
from pathlib import Path

_LISTENS = {"0A", "07"}
"""The states of a TCP socket that listens, and of a UDP socket that is not connected."""


def family(pid):
    """A process and all that it has started, and these have."""
    found = [pid]
    for one in found:
        with suppress(OSError):
            for thread in Path(f"/proc/{one}/task").iterdir():
                found += map(int, (thread / "children").read_text().split())
    return found


def sockets(pids):
    """What any of these processes has open: (its id, the table, the address, whether it listens).

    A UDP socket listens unless it is connected, as that of a resolver is to a name server.
    """
    owners = {}
    for pid in pids:
        with suppress(OSError):
            for link in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError):
                    owners[os.readlink(link)] = pid
    found = []
    for table in ("tcp", "tcp6", "udp", "udp6"):
        lines = Path(f"/proc/{pids[0]}/net/{table}").read_text().splitlines()[1:]
        found += [
            (owners[inode], table, _address(fields[1]), fields[3] in _LISTENS)
            for fields in map(str.split, lines)
            if (inode := f"socket:[{fields[9]}]") in owners
        ]
    return found


def _address(text):
    """Four bytes at a time, each as a number of this machine's."""
    host = text.partition(":")[0]
    words = [int(host[i : i + 8], 16).to_bytes(4, "little") for i in range(0, len(host), 8)]
    kind = socket.AF_INET if len(words) == 1 else socket.AF_INET6
    found = ipaddress.ip_address(socket.inet_ntop(kind, b"".join(words)))
    return getattr(found, "ipv4_mapped", None) or found


def assert_on_loopback(pid, *, at_least):
    """Looks at a process and all that it started: nobody but this machine reaches any of them.

    Args:
        pid: of the process.
        at_least: processes that are known to listen, so that there is something to see.
    """
    found = sockets(family(pid))
    strange = [s for s in found if not s[2].is_loopback and (s[3] or s[1].startswith("tcp"))]
    assert strange == []
    assert len({pid for pid, table, _, listens in found if listens}) >= at_least, found
