"""TUN devices: network interfaces whose packets a process reads and writes."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from pathlib import Path

DEVICE = "link0"
"""The name of the interface in every namespace; names are a namespace's own."""
MTU = 65_000
"""Bytes of a packet: the larger, the fewer there are to hold."""

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_SIOCSIFFLAGS, _SIOCGIFFLAGS = 0x8914, 0x8913
_SIOCSIFADDR, _SIOCSIFNETMASK = 0x8916, 0x891C
_SIOCSIFMTU, _SIOCSIFTXQLEN = 0x8922, 0x8943
_IFF_UP = 0x1
_QUEUE = 10_000

# So that a window of messages fits into the socket's buffers on a long link, and so that a
# pipeline that pauses (the locked ones do) does not have to start slowly again.
_TUNED = {
    "tcp_rmem": "4096 16777216 134217728",
    "tcp_wmem": "4096 16777216 134217728",
    "tcp_slow_start_after_idle": "0",
}


def open_tun(address: str, mask: str) -> int:
    """Makes the interface in the calling thread's namespace, up and with an address.

    Args:
        address: IPv4.
        mask: of the network that is reached through it.

    Returns:
        A file descriptor that does not block; each read is a packet. The interface goes with it.

    Raises:
        OSError: the system does not allow it, or has no TUN devices.
    """
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _TUNSETIFF, _request(DEVICE, "H14x", _IFF_TUN | _IFF_NO_PI))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            _set(control, _SIOCSIFADDR, _request(DEVICE, "16s", _as_sockaddr(address)))
            _set(control, _SIOCSIFNETMASK, _request(DEVICE, "16s", _as_sockaddr(mask)))
            _set(control, _SIOCSIFMTU, _request(DEVICE, "i12x", MTU))
            _set(control, _SIOCSIFTXQLEN, _request(DEVICE, "i12x", _QUEUE))
            for name in ("lo", DEVICE):
                _bring_up(control, name)
    except OSError:
        os.close(fd)
        raise
    for key, value in _TUNED.items():
        _tune(key, value)
    return fd


def _request(name: str, layout: str, value: int | bytes) -> bytes:
    """A ``struct ifreq``."""
    return struct.pack(f"16s{layout}8x", name.encode(), value)


def _as_sockaddr(address: str) -> bytes:
    return struct.pack("=HH4s8x", socket.AF_INET, 0, socket.inet_aton(address))


def _set(control: socket.socket, number: int, request: bytes) -> bytes:
    return fcntl.ioctl(control.fileno(), number, request)


def _bring_up(control: socket.socket, name: str) -> None:
    got = _set(control, _SIOCGIFFLAGS, _request(name, "H14x", 0))
    flags = struct.unpack_from("H", got, 16)[0]
    _set(control, _SIOCSIFFLAGS, _request(name, "H14x", flags | _IFF_UP))


def _tune(key: str, value: str) -> None:
    """Sets what a namespace has of its own; where that is not to be had, TCP's defaults serve."""
    try:
        Path("/proc/sys/net/ipv4", key).write_text(value)
    except OSError:
        return
