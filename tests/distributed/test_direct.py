"""Contents by groups of their own; a second gloo group stands in for NCCL, which needs GPUs."""

import threading
import time
from datetime import timedelta
from typing import Any

import pytest
import torch
from torch.distributed import ProcessGroupGloo

from synthgrad.distributed import Options, serve
from synthgrad.distributed.protocol import Frame, Kind
from synthgrad.distributed.transport._gloo_direct import Endpoint, direct
from synthgrad.distributed.transport._gloo_nccl import Nccl, NcclGroup
from tests.distributed.links import Ends, message, until

pytestmark = pytest.mark.timeout(60)

HERE = Endpoint("cuda", "host GPU-1", "nccl (2, 27, 3)")


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (Endpoint("cuda", "host GPU-2", HERE.library), True),
        (Endpoint("cuda", "other GPU-1", HERE.library), True),
        (HERE, False),  # one GPU for both
        (Endpoint("cpu", "", HERE.library), False),
        (Endpoint("cuda", "host GPU-2", ""), False),  # not there, or not wanted
        (Endpoint("cuda", "host GPU-2", "nccl (2, 21, 5)"), False),
        (Endpoint.from_record(None), False),
    ],
    ids=["another GPU", "another host", "the same", "a CPU", "none", "another version", "silent"],
)
def test_contents_go_directly_where_each_end_has_a_gpu_of_its_own(other, expected):
    assert direct(HERE, other) == direct(other, HERE) == expected
    assert Endpoint.from_record(other.to_record()) == other


def test_nothing_is_offered_where_there_is_no_gpu():
    assert Nccl(torch.device("cpu"), Options()).endpoint == Endpoint("cpu", "", "")
    assert not direct(Endpoint("cpu"), Endpoint("cpu"))


class Group:
    """One direction over gloo."""

    def __init__(self, store, rank, timeout):
        options = ProcessGroupGloo._Options()  # pyright: ignore
        options._devices = [ProcessGroupGloo.create_device(hostname="127.0.0.1")]
        options._timeout = timedelta(seconds=timeout)
        self.group: Any = ProcessGroupGloo(store, rank, 2, options)  # pyright: ignore
        self.rank, self.peer, self.timeout = rank, 1 - rank, timedelta(seconds=timeout)
        self.sent = self.received = 0
        self.silent = False
        self.closed = threading.Event()

    def send(self, tensor):
        assert self.rank == 0
        self.sent += 1
        return None if self.silent else self.group.send([tensor], self.peer, 0)

    def receive(self, tensor):
        assert self.rank == 1
        self.received += 1
        return self.group.recv([tensor], self.peer, 0)

    def wait(self, work):
        if self.closed.is_set():
            raise RuntimeError("closed")
        if work is not None:
            work.wait(self.timeout)

    def close(self):
        self.closed.set()


class Library:
    """Says that it can go from GPU to GPU, and goes from CPU to CPU."""

    def __init__(self, rank, timeout=1.0, fails=0):
        self.endpoint = Endpoint("cuda", f"host GPU-{rank}", "stand-in")
        self.device = torch.device("cpu")
        self.groups, self.timeout, self.fails, self.tries = [], timeout, fails, 0

    def group(self, store, rank):
        self.tries += 1
        if self.tries <= self.fails:
            raise RuntimeError("no GPU answers")
        self.groups.append(Group(store, rank, self.timeout))
        return self.groups[-1]


def _exchange(ends, count=30):
    """Messages up and targets down, each seen to be right."""
    below, above = ends.edges

    def taken(edge):
        until(lambda: edge.waiting)
        return edge.receive()

    for number in range(count):
        contents = message(number)
        assert below.send(Frame(Kind.TRAIN, number, 4, number=number, tensors=contents))
        frame = taken(above)
        assert all(map(torch.equal, frame.tensors, contents))
        above.used(frame)
        target = Frame(Kind.TARGET, number, 4, number=number, tensors=(-contents[0],))
        assert above.send(target, answers=frame)
        frame = taken(below)
        assert frame.number == number
        assert torch.equal(frame.tensors[0], -contents[0])
        below.used(frame)


def test_contents_go_by_their_own_groups_and_headers_do_not():
    store = serve()
    libraries = Library(0), Library(1)
    with Ends(f"127.0.0.1:{store.port}", libraries=libraries) as ends:
        ends.up()
        _exchange(ends, 30)
        assert ends.edges[0].send(Frame(Kind.END))
        for library in libraries:
            # Each direction has its own; the first transfer was a trial.
            assert sorted((g.sent, g.received) for g in library.groups) == [(0, 31), (31, 0)]


@pytest.mark.parametrize("only", [0, 1])
def test_everything_goes_by_the_channel_where_one_end_has_no_gpu(only):
    store = serve()
    libraries: list[Library | None] = [None, None]
    libraries[only] = library = Library(only)
    with Ends(f"127.0.0.1:{store.port}", libraries=libraries) as ends:
        ends.up()
        _exchange(ends, 5)
    assert library.tries == 0


@pytest.mark.parametrize("gone", [0, 1])
def test_groups_end_with_the_link_and_new_ones_are_formed(gone):
    store = serve()
    libraries = Library(0), Library(1)
    with Ends(f"127.0.0.1:{store.port}", libraries=libraries) as ends:
        ends.up()
        _exchange(ends, 5)
        old = [group for library in libraries for group in library.groups]
        ends.edges[gone].close()
        until(lambda: not ends.edges[1 - gone].up)
        until(lambda: all(group.closed.is_set() for group in old))
        ends.again(gone)
        ends.up()
        _exchange(ends, 5)
        assert [len(library.groups) for library in libraries] == [4, 4]
        assert not any(g.closed.is_set() for library in libraries for g in library.groups[2:])


def test_contents_that_do_not_come_are_the_end_of_the_link():
    store = serve()
    libraries = Library(0, timeout=0.5), Library(1, timeout=0.5)
    with Ends(f"127.0.0.1:{store.port}", libraries=libraries) as ends:
        ends.up()
        old = [group for library in libraries for group in library.groups]
        for group in old:
            group.silent = True
        began = time.monotonic()
        assert ends.edges[0].send(Frame(Kind.TRAIN, 1, 4, tensors=message(1)))
        until(lambda: all(edge.generation == 2 for edge in ends.edges))
        assert time.monotonic() - began > 0.4
        assert all(group.closed.is_set() for group in old)
        _exchange(ends, 5)


def test_after_two_vain_tries_contents_go_by_the_channel():
    store = serve()
    libraries = Library(0, fails=100), Library(1, timeout=0.5)
    with Ends(f"127.0.0.1:{store.port}", libraries=libraries) as ends:
        ends.up()
        assert libraries[0].tries == 2
        _exchange(ends, 5)


class _Stream:
    def __init__(self, device=None):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


@pytest.mark.parametrize("ends", ["by itself", "never", "by an abort"])
def test_a_transfer_between_gpus_is_waited_for_by_the_host(monkeypatch, ends):
    waited, aborted = [], threading.Event()

    class Event:
        def record(self):
            assert waited == ["stream"]  # behind the transfer

        def query(self):
            return aborted.is_set() if ends != "by itself" else time.monotonic() > done

    class Process:
        Options = type("Options", (), {})

        def __init__(self, *_):
            pass

        def recv(self, tensors, peer, tag):
            assert (peer, tag) == (0, 0)
            return self

        def wait(self):
            waited.append("stream")

        def abort(self):
            aborted.set()

    monkeypatch.setattr(torch.distributed, "ProcessGroupNCCL", Process, raising=False)
    monkeypatch.setattr(torch.cuda, "Stream", _Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setenv("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")
    group = NcclGroup(None, 1, torch.device("cuda"), 0.3)
    began = time.monotonic()
    done = began + 0.1
    if ends == "by an abort":
        threading.Timer(0.1, group.close).start()
    work = group.receive(torch.zeros(1))
    if ends == "by itself":
        group.wait(work)
    else:
        with pytest.raises(RuntimeError):
            group.wait(work)
    spent = time.monotonic() - began
    assert (0.25 if ends == "never" else 0.08) < spent < 20.0
    group.close()
    assert aborted.wait(5)
