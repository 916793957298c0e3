"""The parts of a pipeline by themselves: cuts, frames, checkpoints, and who computes what."""

import threading
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import synthgrad as sg
from synthgrad.distributed import Options, cut
from synthgrad.distributed._cut import even
from synthgrad.distributed._evaluation import Tally, frames
from synthgrad.distributed._flow import Window
from synthgrad.distributed._learner import Learner
from synthgrad.distributed.protocol import VERSION, Layout, Schema, SchemaError
from synthgrad.distributed.transport._gloo_store import Meeting, serve
from synthgrad.errors import ArgumentError, ShapeError
from synthgrad.inputs import SyntheticInput


@given(st.lists(st.integers(0, 5), min_size=1, max_size=7), st.data())
def test_a_model_is_cut_as_evenly_as_whole_modules_allow(widths, data):
    modules = [nn.Linear(w, 1, bias=False) if w else nn.ReLU() for w in widths]
    room = sum(w > 0 for w in widths)
    if not room:
        with pytest.raises(ArgumentError, match="0 modules with parameters"):
            even(modules, 1)
        return
    stages = data.draw(st.integers(1, room))
    sizes = even(modules, stages)
    assert len(sizes) == stages
    assert sum(sizes) == len(modules)
    ends = [sum(sizes[: i + 1]) for i in range(stages)]
    loads = [sum(widths[e - s : e]) for s, e in zip(sizes, ends, strict=True)]
    assert min(loads) > 0

    def best(weights, parts):  # by trying every cut
        if parts == 1:
            return sum(weights) or float("inf")
        found = [
            max(sum(weights[:i]) or float("inf"), best(weights[i:], parts - 1))
            for i in range(1, len(weights))
        ]
        return min(found, default=float("inf"))

    assert max(loads) == best(widths, stages)


def test_a_cut_shares_the_model_and_refuses_sizes_that_do_not_add_up():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    first, second = cut(model, [2, 1])
    assert first[0] is model[0]
    assert second[0] is model[2]
    assert [len(part) for part in cut(model, 2)] in ([1, 2], [2, 1])
    for sizes in ([1, 1], [4], [3, 0], []):
        with pytest.raises(ArgumentError, match="3 modules"):
            cut(model, sizes)
    with pytest.raises(ArgumentError, match="1 to 2 stages, got 3"):
        cut(model, 3)


@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 5), max_size=3),
            st.sampled_from(["float32", "bfloat16", "float64", "int64", "bool"]),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_a_layout_keeps_its_parts_apart(parts):
    room = Layout([(tuple(shape), dtype) for shape, dtype in parts]).room()
    written = []
    for view, (shape, dtype) in zip(room.views, parts, strict=True):
        assert list(view.shape) == shape
        assert str(view.dtype) == f"torch.{dtype}"
        written.append(torch.randint(0, 2, shape).to(view.dtype))
        view.copy_(written[-1])
    for view, expected in zip(room.views, written, strict=True):
        assert torch.equal(view, expected)


def _schema(shape=(4, 3)):
    return Schema(
        stages=2,
        fingerprint="a",
        shape=shape,
        dtype="float32",
        wire="float32",
        label_shape=(4,),
        label_dtype="int64",
        capacity=8,
        target_every=1,
    )


def test_a_schema_travels_and_says_in_what_it_differs():
    schema = _schema()
    assert Schema.from_json(schema.to_json()) == schema
    assert schema.differences(_schema()) == ""
    assert _schema(shape=(4, 2)).differences(schema) == "shape is (4, 2), expected (4, 3)"
    assert _schema(shape=(4, 2)).check != schema.check
    with pytest.raises(SchemaError, match="version 7"):
        Schema.from_json(schema.to_json().replace(f'"version": {VERSION}', '"version": 7'))


@pytest.mark.parametrize(
    ("trip", "step", "size"),
    [(0.0, 0.02, 4), (0.2, 0.02, 14), (0.1, 0.002, 54), (10.0, 0.001, 128), (None, 0.02, 8)],
)
def test_the_window_follows_the_round_trip(trip, step, size):
    window = Window(Options(window="auto"))
    for _ in range(3):
        window.took(step)
    assert window.size(trip) == size
    assert Window(Options(window=3)).size(trip) == 3


def test_a_late_target_fits_the_model_as_it_is_now():
    torch.manual_seed(0)
    feedback = sg.feedback.Linear(3)
    sgd = partial(torch.optim.SGD, lr=0.1)
    learner = Learner(nn.Linear(2, 3), sgd, feedback=feedback, loss_fn=None)
    y = torch.zeros(4).long()
    sent = [learner.backward(learner.forward(torch.randn(4, 2), y), y)[1] for _ in "ab"]
    targets = [torch.randn(4, 3), torch.randn(4, 3)]
    for message, target in zip(sent, targets, strict=True):
        assert message is not None
        expected = sg.feedback.Linear(3)
        expected.load_state_dict(feedback.state_dict())
        loss = expected.loss(message.detach(), target * 4)
        assert loss is not None
        loss.backward()
        learner.fit(message, target)
        for new, old in zip(feedback.parameters(), expected.parameters(), strict=True):
            assert old.grad is not None
            torch.testing.assert_close(new, old - 0.1 * old.grad)
    assert sent[0] is not None
    with pytest.raises(ShapeError, match=r"\(4, 2\) came for a message of shape \(4, 3\)"):
        learner.fit(sent[0], torch.randn(4, 2))


def test_a_state_finds_the_same_parameters_in_another_process():
    def learner():
        inner = [sg.Interface(sg.feedback.MLP(3, hidden=(5,))) for _ in range(3)]
        segment = nn.Sequential(nn.Linear(3, 3), *inner, nn.Linear(3, 2))
        adam = partial(torch.optim.Adam, lr=0.1)
        made = Learner(segment, adam, feedback=sg.feedback.Linear(2), loss_fn=None)
        y = torch.zeros(4).long()
        made.backward(made.forward(torch.randn(4, 3), y), y)
        return made

    many = [learner() for _ in range(5)]  # wherever their parameters happen to lie
    for other in many[1:]:
        other.load_state_dict(many[0].state_dict())
        for optimizer in other.optimizers.values():
            for parameter, state in optimizer.state.items():
                assert state["exp_avg"].shape == parameter.shape


@pytest.mark.parametrize(
    ("given", "feedback", "inputs"),
    [
        ({}, 1, 1),
        ({"feedback": 2}, 2, 2),
        ({"input": 3}, 1, 3),
        ({"feedback": 2, "input": 3}, 2, 3),
    ],
    ids=str,
)
def test_each_kind_of_model_has_the_optimiser_that_was_asked_for(given, feedback, inputs):
    rates = {f"{kind}_optimizer": partial(torch.optim.SGD, lr=r) for kind, r in given.items()}
    learner = Learner(
        nn.Linear(2, 3),
        partial(torch.optim.SGD, lr=1),
        feedback=sg.feedback.Linear(3),
        loss_fn=None,
        inputs=SyntheticInput(2, 2),
        feedback_optimizer=rates.get("feedback_optimizer"),
        input_optimizer=rates.get("input_optimizer"),
    )
    found = {name: o.param_groups[0]["lr"] for name, o in learner.optimizers.items()}
    assert found == {"segment": 1, "feedback": feedback, "inputs": inputs}


def test_evaluation_changes_nothing():
    segment = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
    learner = Learner(segment, torch.optim.Adam, feedback=sg.feedback.Linear(3), loss_fn=None)
    before = {k: v.clone() for k, v in segment.state_dict().items()}
    output = learner.evaluate(torch.randn(4, 2))
    assert not output.requires_grad
    assert segment.training
    for name, value in segment.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_record_that_a_dead_process_left_is_never_answered():
    store = serve()
    closing = threading.Event()
    found = []

    def meet(rank, closing, record):
        meeting = Meeting(f"127.0.0.1:{store.port}", 0, rank, interface=None, timeout=5.0)
        found.append(meeting.form({"who": record}, lambda other: None, closing))

    alone = threading.Thread(target=meet, args=(0, closing, "dead"))
    alone.start()
    alone.join(0.3)
    closing.set()  # it has written its record, and goes
    alone.join(5)
    assert found == [None]
    stop = threading.Event()
    upper = threading.Thread(target=meet, args=(1, stop, "upper"))
    upper.start()
    upper.join(0.5)
    assert upper.is_alive()  # the old record is no reason to form anything
    lower = threading.Thread(target=meet, args=(0, threading.Event(), "lower"))
    lower.start()
    for thread in (upper, lower):
        thread.join(10)
    assert [group.size() for group in found[1:]] == [2, 2]


@pytest.mark.parametrize("rank", [0, 1])
def test_an_end_that_is_refused_hears_it_and_a_dead_one_is_not_asked(rank):
    store = serve()
    name = f"127.0.0.1:{store.port}"
    found = []

    def meet(rank, closing, record, refuses):
        def accept(other):
            return f"no {other['who']}" if other["who"] in refuses else None

        meeting = Meeting(name, 0, rank, interface=None, timeout=5.0)
        try:
            found.append(meeting.form({"who": record}, accept, closing))
        except SchemaError as error:
            found.append(str(error))

    closing = threading.Event()
    dead = threading.Thread(target=meet, args=(1 - rank, closing, "dead", ()))
    dead.start()
    dead.join(0.3)
    closing.set()
    dead.join(5)
    for other in ("right", "wrong"):
        found.clear()
        jobs = [(rank, "this", ("dead", "wrong")), (1 - rank, other, ())]
        threads = [
            threading.Thread(target=meet, args=(r, threading.Event(), who, refuses))
            for r, who, refuses in jobs
        ]
        for thread in threads:
            thread.start()
            thread.join(0.2)  # the first meets what the last round left
        for thread in threads:
            thread.join(10)
        if other == "right":
            assert [group.size() for group in found] == [2, 2]
        else:
            assert set(found) == {"no wrong", "refused by the other end: no wrong"}


def test_an_evaluation_that_is_sent_again_counts_once():
    tally = Tally(lambda output, y: output)
    batches = [(torch.full((4,), float(i)), torch.zeros(4)) for i in range(3)]
    for end in (2, 3):  # the first time the last frame is lost
        for frame in list(frames(batches, 4, 7, final=True))[:end]:
            output, y = frame.tensors
            tally.add(output, y, frame)
    assert tally.take() == {"metric": 1.0, "examples": 12}
