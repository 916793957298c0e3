"""The link delays, keeps order, carries enough, and leaves nothing behind."""

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from benchmarks import CLONE
from benchmarks.link import (
    Loopback,
    Network,
    bandwidth,
    enter,
    namespace,
    round_trip,
    why_not,
)
from benchmarks.link import network as network_module
from benchmarks.link.relay import relay
from synthgrad.errors import ArgumentError

REASON = why_not()
here = pytest.mark.skipif(REASON is not None, reason=str(REASON))
DELAY = 0.02


@here
def test_a_round_trip_takes_two_delays_between_any_two_hosts():
    with Network(3, DELAY) as network:
        assert 2 * DELAY <= round_trip(network) < 2 * DELAY + 0.02
        far = network.address(2)
        with network.call(2, lambda: socket.create_server((far, 0))) as listener:
            port = listener.getsockname()[1]
            start = time.perf_counter()
            with network.call(1, lambda: socket.create_connection((far, port), timeout=10)):
                assert time.perf_counter() - start >= 2 * DELAY
        own = network.call(0, lambda: socket.create_server((network.address(0), 0)))
        with own, network.call(0, lambda: socket.create_connection(own.getsockname())):
            pass  # a host reaches itself without the link
        assert network.cpu_seconds >= 0


@here
def test_a_long_link_carries_more_than_a_pipeline_asks_for():
    with Network(2, DELAY) as network:
        assert bandwidth(network, 32 << 20) > 20e6


@here
def test_packets_keep_their_order():
    with Network(2, DELAY) as network:

        def socket_at(host):
            bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            bound.bind((network.address(host), 0))
            bound.settimeout(10)
            return bound

        one = network.call(0, lambda: socket_at(0))
        other = network.call(1, lambda: socket_at(1))
        with one, other:
            for i in range(200):
                one.sendto(i.to_bytes(2, "big"), other.getsockname())
            came = [int.from_bytes(other.recv(2), "big") for _ in range(200)]
    assert came == list(range(200))


@here
def test_two_networks_do_not_meet():
    with Network(2, 0.0) as one, Network(2, DELAY) as other:
        assert one.address(1) == other.address(1)
        assert round_trip(other) >= 2 * DELAY > round_trip(one)


@here
def test_nothing_is_left_after_an_error():
    before = os.listdir("/proc/self/fd")
    network = Network(2, DELAY)
    assert network._relay is not None
    carrier, path = network._relay.pid, str(network.entrance(0))
    with pytest.raises(ZeroDivisionError), network:
        raise ZeroDivisionError
    assert os.listdir("/proc/self/fd") == before
    assert not Path(f"/proc/{carrier}").exists()
    with pytest.raises(OSError):  # noqa: PT011  (there is no such file, or another one)
        namespace._in_thread(lambda: enter(path))


@here
def test_the_carrier_ends_with_whoever_started_it_even_by_kill_9():
    program = (
        "import time; from benchmarks.link import Network\n"
        "with Network(2, 0.01) as n: print(n._relay.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=CLONE
    ) as holder:
        assert holder.stdout is not None
        carrier = Path(f"/proc/{int(holder.stdout.readline())}")
        assert carrier.exists()
        holder.kill()
    end = time.monotonic() + 5
    while carrier.exists() and time.monotonic() < end:
        time.sleep(0.01)
    assert not carrier.exists() or "Z" in (carrier / "stat").read_text()


def test_the_reason_is_told_where_it_cannot_be(monkeypatch):
    def refuse():
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(network_module, "Namespace", refuse)
    assert "Operation not permitted" in str(why_not())


@pytest.mark.parametrize(
    ("hosts", "delay", "says"),
    [(0, 0.1, "hosts"), (251, 0.1, "251"), (2, -1.0, "delay"), (2, float("inf"), "inf")],
)
def test_bad_arguments_are_named(hosts, delay, says):
    with pytest.raises(ArgumentError, match=says):
        Network(hosts, delay)


def test_loopback_has_no_delay():
    with Loopback() as place:
        assert place.entrance(1) is None
        assert round_trip(place) < 0.02
        assert bandwidth(place, 16 << 20) > 20e6


def _packet(host, content, version=4):
    header = bytearray(20)
    header[0] = version << 4
    header[19] = host + 1
    return bytes(header) + content


def test_the_relay_holds_packets_for_the_delay_and_drops_what_has_no_host():
    # Sockets that keep the boundaries of packets stand for the devices, so root is not needed.
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
    for _, inner in pairs:
        inner.setblocking(False)
    ours, theirs = os.pipe()
    tuns = [inner.fileno() for _, inner in pairs]
    carrier = threading.Thread(target=relay, args=(0.05, tuns, ours), daemon=True)
    carrier.start()
    start = time.monotonic()
    pairs[0][0].send(_packet(1, b"", version=6))
    pairs[0][0].send(_packet(7, b"nobody"))
    for i in range(5):
        pairs[0][0].send(_packet(1, bytes([i])))
    pairs[1][0].send(_packet(0, b"back"))
    pairs[1][0].settimeout(10)
    assert [pairs[1][0].recv(100)[20:] for _ in range(5)] == [bytes([i]) for i in range(5)]
    assert time.monotonic() - start >= 0.05
    pairs[0][0].settimeout(10)
    assert pairs[0][0].recv(100)[20:] == b"back"
    os.close(theirs)
    carrier.join(10)
    assert not carrier.is_alive()
    os.close(ours)
    for pair in pairs:
        for end in pair:
            end.close()
