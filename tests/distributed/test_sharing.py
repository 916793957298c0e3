"""What two stages would share is refused, by name, before anything is changed."""

import copy
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import synthgrad as sg
from synthgrad._sharing import held
from synthgrad.distributed import cut, train
from synthgrad.distributed._cut import refuse_shared
from synthgrad.errors import ArgumentError, LockingError, SynthgradError
from tests.distributed.processes import batches


def _layers(widths=(8, 8, 8, 8)):
    return [nn.Linear(a, b) for a, b in pairwise(widths)]


def _tied(first, second):
    second.weight = first.weight


def _view(first, second):
    second.weight = nn.Parameter(first.weight.t())


def _part(first, second):
    second.bias = nn.Parameter(first.weight[3])


def _same_data(first, second):
    second.weight.data = first.weight.data


def _frozen_view(first, second):
    second.weight = nn.Parameter(first.weight.detach(), requires_grad=False)


def _buffer(first, second):
    first.register_buffer("mean", torch.zeros(3))
    second.register_buffer("average", first.mean)


def _buffer_of_a_weight(first, second):
    second.register_buffer("mirror", first.weight.data[:2])


def _module(first, second):
    first.inner = second.inner = nn.BatchNorm1d(8)


@pytest.mark.parametrize(
    ("share", "one", "other"),
    [
        (_tied, "parameter 'a.weight'", "parameter 'c.weight'"),
        (_view, "parameter 'a.weight'", "parameter 'c.weight'"),
        (_part, "parameter 'a.weight'", "parameter 'c.bias'"),
        (_same_data, "parameter 'a.weight'", "parameter 'c.weight'"),
        (_frozen_view, "parameter 'a.weight'", "parameter 'c.weight'"),
        (_buffer, "buffer 'a.mean'", "buffer 'c.average'"),
        (_buffer_of_a_weight, "parameter 'a.weight'", "buffer 'c.mirror'"),
        (_module, "parameter 'a.inner.weight'", "parameter 'c.inner.weight'"),
    ],
)
def test_what_lies_on_both_sides_of_a_cut_is_refused(share, one, other):
    first, second, third = _layers()
    share(first, third)
    model = nn.Sequential()
    for name, layer in (("a", first), ("b", second), ("c", third)):
        model.add_module(name, layer)
    with pytest.raises(LockingError, match=f"segments 0 and 1 .*the {one} of segment 0 .*{other}"):
        cut(model, [2, 1])
    assert len(cut(model, [3])) == 1
    with pytest.raises(LockingError, match="segments 0 and 2 cannot be apart"):
        train(
            [first, second, third],
            _never,
            batches=_never,
            loss_fn=F.cross_entropy,
            optimizer=torch.optim.Adam,
            steps=1,
        )


def _never(*_):
    raise AssertionError("it was refused before")


def _frozen(first, second):
    first.weight.requires_grad_(False)
    second.weight = first.weight


def _activation(first, second):
    first.inner = second.inner = nn.ReLU()


def _one_buffer_for_both(first, second):
    flat = torch.randn(2, 8, 8)
    first.weight, second.weight = nn.Parameter(flat[0]), nn.Parameter(flat[1])


@pytest.mark.parametrize("share", [_frozen, _activation, _one_buffer_for_both])
def test_what_does_no_harm_is_not(share):
    first, second = _layers((8, 8, 8))
    share(first, second)
    assert len(cut(nn.Sequential(first, second), [1, 1])) == 2


def test_a_tensor_without_memory_is_looked_at_as_well():
    one, other = nn.Linear(2, 2, device="meta"), nn.Linear(2, 2, device="meta")
    refuse_shared([held(one, "this"), held(other, "that")])
    other.weight = one.weight
    with pytest.raises(LockingError, match="'weight' of this and the parameter 'weight' of that"):
        refuse_shared([held(one, "this"), held(other, "that")])
    refuse_shared([held(nn.LazyLinear(2), "this"), held(nn.LazyLinear(2), "that")])


def _one_for_all():
    one = sg.feedback.Linear(8)
    return lambda h: (torch.rand(3), one)[1]


def _that_shares(segments):
    model = sg.feedback.Linear(8)
    model.extra = segments[2].weight
    return [sg.feedback.Linear(8), model]


@pytest.mark.parametrize(
    ("feedback", "says"),
    [
        (lambda segments: [sg.feedback.Linear(8)] * 2, "behind segments 0 and 1"),
        (lambda segments: _one_for_all(), "behind segments 0 and 1"),
        (_that_shares, "'extra' of the feedback model behind segment 1"),
        (lambda segments: sg.feedback.Linear(8), "must be a Feedback, got Tensor"),
        (lambda segments: [sg.feedback.Linear(8), nn.Linear(8, 8)], "must be a Feedback"),
    ],
    ids=["a list", "a function", "a segment's", "no function", "no feedback"],
)
def test_a_feedback_model_belongs_to_one_stage_and_a_refusal_changes_nothing(feedback, says):
    segments = [nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)), *_layers((8, 8, 8))]
    given = feedback(segments)
    before = copy.deepcopy([s.state_dict() for s in segments])
    random = torch.get_rng_state()
    with pytest.raises((ArgumentError, LockingError), match=says):
        train(
            segments,
            given,
            batches=batches,
            loss_fn=F.cross_entropy,
            optimizer=partial(torch.optim.SGD, lr=0.1),
            steps=1,
        )
    assert torch.equal(torch.get_rng_state(), random)
    for segment, state in zip(segments, before, strict=True):
        for name, value in segment.state_dict().items():
            assert torch.equal(value, state[name])


def test_segments_are_modules():
    with pytest.raises(SynthgradError, match="segment 1 must be a module, got int"):
        train(
            [nn.Linear(2, 2), 3],  # pyright: ignore[reportArgumentType]
            _never,
            batches=_never,
            loss_fn=F.cross_entropy,
            optimizer=torch.optim.Adam,
            steps=1,
        )
