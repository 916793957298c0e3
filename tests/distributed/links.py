"""The two ends of a link, or of an edge, in one process."""

import threading
import time
from types import SimpleNamespace
from typing import Any

import torch

from synthgrad.distributed import Options, serve
from synthgrad.distributed.protocol import Schema
from synthgrad.distributed.transport._gloo import Edge
from synthgrad.distributed.transport._gloo_link import Link
from synthgrad.distributed.transport._gloo_store import Meeting


def until(ready, seconds=40.0):
    """Waits until something is so."""
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "it never was"
        time.sleep(0.005)


def schema(shape=(4, 3), capacity=8):
    return Schema(
        stages=2,
        fingerprint="",
        shape=shape,
        dtype="float32",
        wire="float32",
        label_shape=shape[:1],
        label_dtype="int64",
        capacity=capacity,
        target_every=1,
    )


class Counting:
    """A group that counts what it is asked for."""

    def __init__(self, group):
        self.group, self.sends, self.receives = group, 0, 0

    def send(self, *arguments):
        self.sends += 1
        return self.group.send(*arguments)

    def recv(self, *arguments):
        self.receives += 1
        return self.group.recv(*arguments)


def links(given, **settings) -> list[Any]:
    """Both ends of a link, each with its ``group``, and what it ``received`` in a thread."""
    store = serve()
    groups: dict[int, Any] = {}

    def meet(rank):
        meeting = Meeting(f"127.0.0.1:{store.port}", 0, rank, interface=None, timeout=5.0)
        groups[rank] = meeting.form({}, lambda other: None, threading.Event())

    threads = [threading.Thread(target=meet, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    layouts = [given.message(), given.target(with_message=False)]
    ends = []
    for rank in (0, 1):
        group = Counting(groups[rank])
        wanted: dict[str, Any] = {"capacity": given.capacity, "check": given.check, "timeout": 5.0}
        link = Link(group, 1 - rank, layouts[rank], layouts[1 - rank], **(wanted | settings))
        ends.append(SimpleNamespace(link=link, group=group, store=store))
    return ends


def open_end(store, rank, given, options, library=None) -> Edge:
    """One end of an edge."""
    return Edge(
        f"stage {1 - rank}",
        Meeting(store, 0, rank, interface=None, timeout=options.timeout),
        rank,
        options,
        threading.Condition(),
        schema=None if rank else given,
        accept=lambda found, known: None,
        library=library,
    )


class Ends:
    """Both ends of an edge; each may be closed and opened again."""

    def __init__(self, store, given=None, libraries=(None, None), timeout=2.0, **options):
        self.store, self.libraries = store, libraries
        self.schema = given or schema()
        self.options = Options(timeout=timeout, **options)
        self.edges: list[Edge] = [self.open(0), self.open(1)]

    def open(self, rank) -> Edge:
        return open_end(self.store, rank, self.schema, self.options, self.libraries[rank])

    def again(self, rank):
        """Opens an end anew."""
        self.edges[rank] = self.open(rank)

    def up(self):
        until(lambda: all(edge.up for edge in self.edges))

    def close(self):
        threads = [threading.Thread(target=edge.close) for edge in self.edges]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def message(number, shape=(4, 3)):
    """Contents that are told from others."""
    return torch.full(shape, float(number)), torch.full(shape[:1], number)
