"""What a place's links really do."""

from __future__ import annotations

import socket
import statistics
import threading
import time

from benchmarks.link.network import Place

_BLOCK = 1 << 20


def round_trip(place: Place, count: int = 9) -> float:
    """Seconds for a byte from host 0 to host 1 and back over TCP, the median of several."""
    client, server = _connected(place)
    with client, server:

        def echo() -> None:
            while byte := server.recv(1):
                server.sendall(byte)

        far = threading.Thread(target=echo, daemon=True)
        far.start()
        times = []
        for _ in range(count):
            start = time.perf_counter()
            client.sendall(b"?")
            client.recv(1)
            times.append(time.perf_counter() - start)
        client.shutdown(socket.SHUT_WR)
        far.join()
        return statistics.median(times)


def bandwidth(place: Place, size: int = 64 * _BLOCK) -> float:
    """Bytes a second from host 0 to host 1 over TCP, the second half of ``size`` bytes.

    The first half lets the connection find its speed, as a training run's first steps do.
    """
    client, server = _connected(place)
    with client, server:

        def send() -> None:
            block = bytes(_BLOCK)
            for _ in range(size // _BLOCK):
                client.sendall(block)

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        room = bytearray(_BLOCK)
        half, whole, got = size // 2, size // _BLOCK * _BLOCK, 0
        while got < half:
            got += server.recv_into(room)
        start, first = time.perf_counter(), got
        while got < whole:
            got += server.recv_into(room)
        seconds = time.perf_counter() - start
        sender.join()
        return (got - first) / seconds


def _connected(place: Place) -> tuple[socket.socket, socket.socket]:
    """A socket on host 0 and its peer on host 1."""
    far = place.address(1)
    with place.call(1, lambda: socket.create_server((far, 0))) as listener:
        port = listener.getsockname()[1]
        client = place.call(0, lambda: socket.create_connection((far, port), timeout=10))
        server, _ = listener.accept()
    for end in (client, server):
        end.settimeout(60)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client, server
