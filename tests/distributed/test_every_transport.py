"""What every transport promises (synthgrad/distributed/transport/base.py), whichever it is.

A new transport is a row in TRANSPORTS.
"""

import ast
import threading
import time
from copy import deepcopy
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import synthgrad as sg
from synthgrad import distributed
from synthgrad.distributed import Options, SchemaError, serve
from synthgrad.distributed.protocol import Frame, Kind
from synthgrad.distributed.transport import Gloo
from synthgrad.distributed.transport.base import Receives, Sends
from tests.distributed.links import message, schema, until
from tests.distributed.memory import Memory
from tests.distributed.processes import batches
from tests.distributed.threads import Pipeline, build

pytestmark = pytest.mark.timeout(60)

CPU = torch.device("cpu")


class OverGloo:
    """Transports that share a store."""

    def __init__(self, options):
        self.store = serve()
        self.options = options

    def __call__(self):
        return Gloo(f"127.0.0.1:{self.store.port}", self.options)


class InMemory:
    """One for all."""

    def __init__(self, _):
        self.one = Memory()

    def __call__(self):
        return self.one


TRANSPORTS = [OverGloo, InMemory]


@pytest.fixture(params=TRANSPORTS, ids=lambda kind: kind.__name__)
def kind(request):
    return request.param


class Edges:
    """Ends of edges, each with a transport and a condition of its own."""

    def __init__(self, kind):
        self.transport = kind(Options(timeout=2.0))
        self.open = []

    def below(self, sender=0, receiver=1, given=None):
        says = Sends(given or schema(), CPU)
        return self._end(sender, receiver, says)

    def above(self, sender=0, receiver=1, accept=lambda found, known: None, **says):
        return self._end(sender, receiver, Receives(accept, CPU, **says))

    def both(self, **says):
        given = says.pop("schema", None)
        ends = self.below(given=given), self.above(**says)
        up(*ends)
        return ends

    def _end(self, sender, receiver, says):
        changed = threading.Condition()
        end = self.transport().connect(sender, receiver, says, changed)
        self.open.append(end)
        return end


@pytest.fixture
def edges(kind):
    made = Edges(kind)
    yield made
    threads = [threading.Thread(target=end.close) for end in made.open]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)


def up(*ends, generation=1):
    until(lambda: all(end.up and end.generation >= generation for end in ends))


def take(end):
    until(lambda: end.waiting)
    frame = end.receive()
    assert frame is not None
    return frame


def train(number, **settings):
    return Frame(Kind.TRAIN, number, 4, number=number, tensors=message(number), **settings)


def target(number):
    return Frame(Kind.TARGET, number, 4, number=number, tensors=message(number)[:1])


def same(one, other):
    names = ("kind", "step", "rows", "first", "last", "final", "number")
    assert [getattr(one, n) for n in names] == [getattr(other, n) for n in names]
    assert len(one.tensors) == len(other.tensors)
    assert all(map(torch.equal, one.tensors, other.tensors))


def test_a_frame_arrives_as_it_was_sent_and_in_order(edges):
    below, above = edges.both()
    sent = [
        train(1),
        Frame(Kind.EVAL, 8, 3, first=True, final=True, number=5, tensors=message(2)),
        Frame(Kind.EVAL, 8, 2, last=True, tensors=message(3)),
        Frame(Kind.END, 10, 2),
        Frame(Kind.STOP),
        Frame(Kind.DONE),
    ]
    for frame in sent:
        assert below.send(frame)
    for frame in sent:
        came = take(above)
        same(came, frame)
        assert came.generation == above.generation == 1
    assert above.send(target(7))
    same(take(below), target(7))
    assert above.send(Frame(Kind.DONE))
    same(take(below), Frame(Kind.DONE))
    assert below.receive() is above.receive() is None


def test_what_was_sent_may_be_changed_and_what_came_is_the_receivers(edges):
    below, above = edges.both()
    h, y = message(1)
    kept = []
    for number in range(20):
        h.fill_(number)
        y.fill_(number)
        assert below.send(Frame(Kind.TRAIN, number, 4, tensors=(h, y)))
        h.fill_(-1)
        y.fill_(-1)
        kept.append(take(above))
        above.used(kept[-1])
        above.acknowledge()
        until(lambda: below.in_flight == 0)
    for number, frame in enumerate(kept):
        assert all(map(torch.equal, frame.tensors, message(number)))


def test_both_ends_send_at_once_and_nothing_is_lost_or_comes_twice(edges):
    below, above = edges.both()
    count, capacity = 300, schema().capacity
    came = {below: [], above: []}

    def run(end, make):
        sent = 0
        while sent < count or len(came[end]) < count:
            if sent < count and end.in_flight < capacity:
                assert end.send(make(sent))
                sent += 1
            if (frame := end.receive()) is not None and frame.tensors:
                came[end].append(frame)
                end.used(frame)
                end.acknowledge()

    ends = (below, train), (above, target)
    threads = [threading.Thread(target=run, args=one, daemon=True) for one in ends]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
        assert not thread.is_alive()
    for frames in came.values():
        assert [frame.number for frame in frames] == list(range(count))
        assert all(torch.equal(f.tensors[0], message(f.number)[0]) for f in frames)


def test_in_flight_is_what_was_sent_and_not_used(edges):
    below, above = edges.both()
    began = time.monotonic()
    for number in range(schema().capacity):  # that much is taken though nobody receives
        assert below.send(train(number))
        assert below.send(Frame(Kind.END))
    assert time.monotonic() - began < 5.0
    assert below.in_flight == schema().capacity
    assert not below.answered
    frames = [take(above) for _ in range(2 * schema().capacity)][::2]
    assert below.in_flight == schema().capacity  # received is not used
    for frame in frames[:3]:
        above.used(frame)
    above.acknowledge()
    until(lambda: below.in_flight == schema().capacity - 3)
    until(lambda: below.answered)
    above.used(frames[3])
    assert above.send(target(3), answers=frames[3])  # which says so as well
    take(below)
    assert below.in_flight == schema().capacity - 4
    assert above.in_flight == 1
    assert not above.answered
    assert below.round_trip is not None
    assert 0 <= below.round_trip < 5.0


def test_nobody_waits_for_an_end_that_is_not_there(edges):
    began = time.monotonic()
    below = edges.below()
    assert not below.send(train(1))
    assert below.receive() is None
    below.acknowledge()
    below.reset()
    assert (below.up, below.generation, below.in_flight) == (False, 0, 0)
    assert below.round_trip is None
    assert time.monotonic() - began < 1.0
    above = edges.above()
    up(below, above)
    assert above.receive() is None  # it was not kept for whoever comes
    assert below.send(train(2))
    assert take(above).number == 2


@pytest.mark.parametrize("leaves", [0, 1], ids=["the sender", "the receiver"])
def test_loss_is_told_and_nothing_comes_over_into_the_next_generation(edges, leaves):
    ends = list(edges.both())
    make, answer = (train, target) if leaves == 0 else (target, train)
    gone, stays = ends[leaves], ends[1 - leaves]
    for number in (1, 2, 3):
        assert gone.send(make(number))
    assert stays.send(answer(4))
    seen = take(stays)
    assert stays.in_flight == 1
    gone.close()
    until(lambda: not stays.up)
    assert stays.in_flight == 0
    assert not stays.answered
    assert not stays.send(answer(5))
    assert stays.receive().number == 2  # it came before
    assert stays.waiting
    came = edges.below() if leaves == 0 else edges.above()
    up(stays, generation=2)
    up(came)
    assert (stays.generation, came.generation) == (2, 1)
    assert not stays.waiting
    assert not came.waiting
    assert (stays.in_flight, came.in_flight) == (0, 0)
    assert not stays.answered
    # The answer to what another process has sent is for nobody.
    assert not stays.send(answer(1), answers=seen)
    stays.used(seen)
    stays.acknowledge()
    assert came.send(make(9))
    again = take(stays)
    assert (again.number, again.generation) == (9, 2)
    assert came.in_flight == 1
    assert stays.send(answer(9), answers=again)
    assert take(came).number == 9


def test_an_end_may_have_both_begin_anew(edges):
    below, above = edges.both()
    assert below.send(train(1))
    until(lambda: above.waiting)
    above.reset()
    up(below, above, generation=2)
    assert (below.generation, above.generation) == (2, 2)
    assert not above.waiting
    assert below.in_flight == 0
    assert below.send(train(2))
    assert take(above).number == 2


def test_ends_say_to_each_other_what_they_are(edges):
    asked = []
    known = schema((4, 3), capacity=5)
    below, above = edges.both(
        accept=lambda found, before: asked.append((found, before)), known=known, wants_message=True
    )
    assert asked[0] == (schema(), known)
    assert above.schema == below.schema == schema()
    assert below.wants_message
    assert (below.name, above.name) == ("stage 1", "stage 0")
    h, y = message(1)
    assert above.send(Frame(Kind.TARGET, 1, 4, tensors=(h, h, y)))
    assert len(take(below).tensors) == 3


def test_an_end_that_is_refused_hears_why(edges):
    def accept(found, known):
        raise SchemaError("shape is (4, 3), expected a circle")

    ends = edges.below(), edges.above(accept=accept)
    until(lambda: all(end.problem is not None for end in ends))
    for end in ends:
        with pytest.raises(SchemaError, match=rf"edge to {end.name}: .*expected a circle"):
            end.check()
        assert not end.up
        assert not end.send(Frame(Kind.END))


def test_contents_travel_in_the_type_that_was_agreed_on(edges):
    below, above = edges.both(schema=replace(schema(), wire="bfloat16"))
    h = torch.rand(4, 3)
    assert below.send(Frame(Kind.TRAIN, 1, 4, tensors=(h, message(1)[1])))
    came = take(above)
    assert torch.equal(came.tensors[0].float(), h.bfloat16().float())
    assert torch.equal(came.tensors[1], message(1)[1])


def test_whoever_waits_is_woken(kind, edges):
    changed, woken = threading.Condition(), threading.Event()
    below = edges.below()
    above = edges.transport().connect(0, 1, Receives(lambda *_: None, CPU), changed)
    edges.open.append(above)

    def wait_for(ready):
        def run():
            with changed:
                if changed.wait_for(ready, 20):
                    woken.set()

        woken.clear()
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread

    def wakes(thread):
        thread.join(20)
        assert woken.is_set()

    wakes(wait_for(lambda: above.up))
    until(lambda: below.up)
    thread = wait_for(lambda: above.waiting)
    assert below.send(train(1))
    wakes(thread)
    assert above.send(target(1))
    thread = wait_for(lambda: above.in_flight == 0)
    below.used(take(below))
    below.acknowledge()
    wakes(thread)
    thread = wait_for(lambda: not above.up)
    below.close()
    wakes(thread)


def test_a_stage_has_several_receivers_and_several_senders(edges):
    """Stage 0 sends to 1 and 2, and stage 3 hears from both of these."""
    senders = {edge: edges.below(*edge) for edge in ((0, 1), (0, 2), (1, 3), (2, 3))}
    receivers = {edge: edges.above(*edge) for edge in senders}
    up(*senders.values(), *receivers.values())
    for number, edge in enumerate(senders):
        assert senders[edge].send(train(number))
    for number, edge in enumerate(senders):
        assert take(receivers[edge]).number == number
        assert receivers[edge].receive() is None
    receivers[0, 2].close()
    until(lambda: not senders[0, 2].up)
    assert senders[0, 1].up
    assert senders[0, 1].in_flight == 1
    assert receivers[1, 3].up
    assert receivers[2, 3].send(target(7))
    assert take(senders[2, 3]).number == 7
    assert not senders[1, 3].waiting


def _network(*widths):
    torch.manual_seed(0)
    hidden = [
        nn.Sequential(nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU()) for a, b in pairwise(widths)
    ]
    feedbacks = [sg.feedback.MLP(b, hidden=(9,), context=4) for b in widths[1:]]
    return [*hidden, nn.Linear(widths[-1], 4)], feedbacks


def _stages(kind, segments, feedbacks, options, **settings):
    transport = kind(options)
    stages = build(
        segments,
        feedbacks,
        options=options,
        batches=batches,
        loss_fn=F.cross_entropy,
        optimizer=partial(torch.optim.Adam, lr=5e-3),
        transport=transport,
        **settings,
    )
    return stages, transport


def test_synchronous_stages_are_unlocked_to_the_last_bit(kind):
    segments, feedbacks = _network(8, 16, 12)
    expected = deepcopy(segments)
    model = nn.Sequential()
    for segment, feedback in zip(expected, deepcopy(feedbacks), strict=False):
        model.extend([segment, sg.Interface(feedback)])
    model.append(expected[-1])
    schedule = sg.Unlocked(model, partial(torch.optim.Adam, lr=5e-3))
    for step in range(20):
        x, y = batches(step)
        schedule.step(x, lambda output, y=y: F.cross_entropy(output, y), y)
    options = Options(window=1, synchronous=True, timeout=5.0)
    stages, _kept = _stages(kind, segments, feedbacks, options)
    Pipeline(stages, 20).join()
    for ours, theirs in zip(segments, expected, strict=True):
        for name, value in ours.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[name]), name


def test_stages_run_to_their_end_and_learn(kind):
    segments, feedbacks = _network(8, 16)
    options = Options(window=4, timeout=5.0)
    evaluation = {"evaluation": lambda: [batches(10**6)], "metric": lambda o, y: o.argmax(1) != y}
    stages, _kept = _stages(kind, segments, feedbacks, options, evaluate_every=50, **evaluation)
    first, last = Pipeline(stages, 200).join()
    assert [first["state"], last["state"]] == ["finished"] * 2
    assert first["updates"] == last["updates"] == first["sent"] == 200
    assert first["targets"] >= 196
    assert last["result"]["metric"] < 0.3


def _imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_stages_know_the_contract_and_no_transport():
    folder = Path(distributed.__file__).parent
    ours = "synthgrad.distributed.transport"
    may_choose = {"__init__.py", "stage.py", "launch.py"}  # which transport there is
    for path in folder.glob("*.py"):
        for name in _imported(path):
            if name.startswith(f"{ours}.base."):
                continue
            assert not name.startswith((f"{ours}._", "torch.distributed", "torch._C")), path
            assert not name.startswith(ours) or path.name in may_choose, (path, name)
