"""Carries packets between TUN devices, each after a delay. Run as a script, without torch.

    python relay.py DELAY FD FD...

The descriptors are TUN devices, in the order of their hosts. It ends when its standard input does,
so it cannot outlive whoever started it.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
from collections import deque
from collections.abc import Sequence

_BURST = 64
"""Packets read from one device before the others have their turn."""
_LARGEST = 65_536


def relay(delay: float, tuns: Sequence[int], alive: int) -> None:
    """Holds each packet for ``delay`` seconds; keeps their order. Ends with ``alive``.

    The last byte of a packet's destination says which host it is for, counted from 1.
    """
    held: deque[tuple[float, bytes]] = deque()
    sources = [*tuns, alive]
    while True:
        wait = max(0.0, held[0][0] - time.monotonic()) if held else None
        ready, _, _ = select.select(sources, (), (), wait)
        if alive in ready and not os.read(alive, 1):
            return
        for tun in ready:
            if tun != alive:
                _take(tun, held, time.monotonic() + delay)
        now = time.monotonic()
        while held and held[0][0] <= now:
            _give(held.popleft()[1], tuns)


def _take(tun: int, held: deque[tuple[float, bytes]], due: float) -> None:
    for _ in range(_BURST):
        try:
            packet = os.read(tun, _LARGEST)
        except BlockingIOError:
            return
        if packet[0] >> 4 == 4:  # what IPv6 says to itself is nobody's business here
            held.append((due, packet))


def _give(packet: bytes, tuns: Sequence[int]) -> None:
    host = packet[19] - 1
    if 0 <= host < len(tuns):
        try:
            os.write(tuns[host], packet)
        except OSError:  # the far end has just gone: packets to it are lost, as on any link
            return


if __name__ == "__main__":
    with contextlib.suppress(OSError):
        os.nice(-10)  # a link does not wait for a free core
    relay(float(sys.argv[1]), [int(fd) for fd in sys.argv[2:]], sys.stdin.fileno())
