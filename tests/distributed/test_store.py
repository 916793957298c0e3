"""A store that hangs keeps nobody for longer than the timeout."""

import os
import signal
import threading
import time
from contextlib import contextmanager

import pytest

from synthgrad.distributed import serve
from synthgrad.distributed.transport._gloo_bounded import Bounded
from synthgrad.distributed.transport._gloo_store import Meeting
from tests.distributed.links import Ends, until
from tests.distributed.processes import _store, context

pytestmark = pytest.mark.timeout(60)


@contextmanager
def _stoppable_store():
    ready = context.Queue()
    process = context.Process(target=_store, args=(0, ready), daemon=True)
    process.start()
    try:
        yield process, f"127.0.0.1:{ready.get(timeout=30)}"
    finally:
        process.kill()
        process.join(10)


def _send(process, number):
    assert process.pid is not None
    os.kill(process.pid, number)


@pytest.mark.parametrize("connected", [False, True])
def test_a_meeting_gives_up_on_a_store_that_hangs_and_tries_again(connected):
    with _stoppable_store() as (process, store):
        meeting = Meeting(store, 0, 0, interface=None, timeout=0.5)
        if not connected:
            _send(process, signal.SIGSTOP)
        threading.Timer(0.4, _send, (process, signal.SIGSTOP)).start()
        for _ in range(2):  # that it hung before does not matter
            began = time.monotonic()
            with pytest.raises(RuntimeError):  # ours, or one of torch's
                meeting.form({}, lambda other: None, threading.Event())
            assert time.monotonic() - began < 20.0
        _send(process, signal.SIGCONT)
        found = []

        def meet(one):
            while not found or found[-1] is None:
                try:
                    found.append(one.form({}, lambda other: None, threading.Event()))
                    return
                except RuntimeError:
                    time.sleep(0.05)

        other = Meeting(store, 0, 1, interface=None, timeout=0.5)
        threads = [threading.Thread(target=meet, args=(m,), daemon=True) for m in (meeting, other)]
        for thread in threads:
            thread.start()
        until(lambda: len(found) == 2)
        assert [group.size() for group in found] == [2, 2]


def test_an_edge_outlives_a_store_that_hangs():
    with _stoppable_store() as (process, store):
        _send(process, signal.SIGSTOP)
        ends = Ends(store, timeout=0.5)
        time.sleep(1.5)
        assert not any(edge.up for edge in ends.edges)
        began = time.monotonic()
        ends.edges[1].close()  # at once, and not when the store is there again
        assert time.monotonic() - began < 20.0
        ends.again(1)
        _send(process, signal.SIGCONT)
        with ends:
            ends.up()


def test_while_a_store_hangs_it_is_tried_less_and_less():
    with _stoppable_store() as (process, store):
        _send(process, signal.SIGSTOP)
        before = threading.active_count()
        ends = Ends(store, timeout=0.2)
        time.sleep(2.5)
        # Two threads an edge, and those that hang: after 0.2, 0.2 + 0.4, 0.2 + 1, 0.2 + 2 s.
        assert threading.active_count() - before <= 2 * (2 + 5)
        process.kill()
        until(
            lambda: not any(e._meeting._stuck and e._meeting._stuck[0].running for e in ends.edges)
        )
        ends.close()
        until(lambda: threading.active_count() <= before)


def test_what_took_too_long_does_nothing_more():
    began, go, after = threading.Event(), threading.Event(), []

    def run(attempt):
        with attempt.limit():
            began.set()
            go.wait(10)
        after.append("went on")

    attempt = Bounded(run, 0.2, threading.Event())
    with pytest.raises(RuntimeError, match=r"no answer within 0\.2 s"):
        attempt.result()
    assert began.is_set()
    assert attempt.running
    go.set()
    until(lambda: not attempt.running)
    assert after == []


def test_work_with_a_limit_says_what_came_of_it():
    closing = threading.Event()
    assert Bounded(lambda attempt: 5, 0.1, closing).result() == 5

    def fail(attempt):
        raise LookupError("no")

    with pytest.raises(LookupError, match="no"):
        Bounded(fail, 0.1, closing).result()
    # Outside of a limit it may take as long as it likes, until it is not wanted.
    waiting = Bounded(lambda attempt: attempt.closing.wait(10), 0.05, closing)
    threading.Timer(0.4, closing.set).start()
    assert waiting.result() is True


def test_a_record_that_was_written_over_is_written_again():
    store = serve()
    closing = threading.Event()
    meeting = Meeting(f"127.0.0.1:{store.port}", 0, 0, interface=None, timeout=5.0)
    arguments = ({}, lambda other: None, closing)
    lower = threading.Thread(target=meeting.form, args=arguments, daemon=True)
    lower.start()
    store.set("edge0/1", '{"name": "upper", "seen": "", "refused": ""}')
    until(lambda: store.check(["edge0/0"]) and b"upper" in store.get("edge0/0"))
    # What an attempt of this end left in a store that hung, and that read it last.
    store.set("edge0/0", '{"name": "old", "seen": "", "refused": ""}')
    until(lambda: b"upper" in store.get("edge0/0"))
    closing.set()
    lower.join(5)
    assert not lower.is_alive()
