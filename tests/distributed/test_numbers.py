"""A target finds the message that it is for, also where a step was sent more than once."""

import threading
from collections import deque
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import synthgrad as sg
from synthgrad.distributed import Options
from synthgrad.distributed._learner import Learner
from synthgrad.distributed._place import Place
from synthgrad.distributed._ports import Incoming, Outgoing
from synthgrad.distributed._status import Counters
from synthgrad.distributed.protocol import Frame, Kind
from tests.distributed.links import message, schema

pytestmark = pytest.mark.timeout(30)


class StubEdge:
    """What an edge would be, with nobody at the other end."""

    def __init__(self, **settings):
        self.up, self.generation, self.in_flight = True, 1, 0
        self.round_trip, self.wants_message, self.problem = None, False, None
        self.schema = schema()
        self.inbox: deque[Frame] = deque()
        self.answered = True
        self.sent: list[Frame] = []

    def send(self, frame, *, answers=None):
        self.sent.append(frame)
        return True

    @property
    def waiting(self):
        return bool(self.inbox)

    def check(self):
        pass

    def receive(self):
        return self.inbox.popleft() if self.inbox else None

    def used(self, frame):
        pass


def _end(kind, index):
    """An end of an edge, with nobody at the other."""
    transport: Any = SimpleNamespace(connect=lambda *_: StubEdge())
    place = Place(index, 2, transport, Options(), threading.Condition())
    optimizer = partial(torch.optim.SGD, lr=0.1)
    first = {"feedback": sg.feedback.Linear(3), "loss_fn": None}
    last = {"feedback": None, "loss_fn": nn.functional.cross_entropy}
    learner = Learner(nn.Linear(3, 3), optimizer, **(last if index else first))
    settings: dict[str, Any] = {} if index else {"restarted": False}
    return kind(place, 1 - index, learner, Counters(), None, **settings)


def test_answers_to_a_step_that_was_sent_twice_are_told_apart(monkeypatch):
    outgoing = _end(Outgoing, 0)
    fitted = []
    monkeypatch.setattr(
        outgoing.learner,
        "fit",
        lambda message, delta, y: fitted.append((message, delta[0, 0].item())),
    )
    copies = [message(number) for number in (1, 2)]
    numbers = []
    for contents in copies:  # the same step: the stage below was started again
        frame = Frame(Kind.TRAIN, 5, 4, tensors=contents)
        assert outgoing.pass_up(frame)
        outgoing.expect(frame, contents[0])
        numbers.append(frame.number)
    edge = outgoing.edge
    assert isinstance(edge, StubEdge)
    assert [frame.number for frame in edge.sent] == numbers
    for number, value in zip(numbers, (1.0, 2.0), strict=True):
        delta = torch.full((4, 3), value)
        edge.inbox.append(Frame(Kind.TARGET, 5, 4, number=number, tensors=(delta,)))
    outgoing.collect()
    assert [value for _, value in fitted] == [1.0, 2.0]
    assert all(fitted[i][0] is copies[i][0] for i in (0, 1))
    assert outgoing.counters.late == 0


def test_a_target_carries_the_number_of_its_message():
    incoming = _end(Incoming, 1)
    for number in (7, 9):
        frame = Frame(Kind.TRAIN, 5, 4, number=number, tensors=message(1))
        incoming.answer(frame, torch.zeros(4, 3))
    assert isinstance(incoming.edge, StubEdge)
    assert [frame.number for frame in incoming.edge.sent] == [7, 9]
    assert {frame.kind for frame in incoming.edge.sent} == {Kind.TARGET}
