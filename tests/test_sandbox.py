import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from synthgrad._sandbox import preserved


def _net():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))


@pytest.mark.parametrize("fails", [False, True])
def test_buffers_and_random_state_are_as_before(fails):
    model = _net()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    try:
        with preserved(model):
            model(torch.randn(5, 3))
            assert not torch.equal(model.state_dict()["1.running_mean"], before["1.running_mean"])
            assert not torch.equal(torch.get_rng_state(), state)
            if fails:
                raise ZeroDivisionError
    except ZeroDivisionError:
        assert fails
    assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_buffers_stay_the_same_tensors():
    model = _net()
    before = list(model.buffers())
    with preserved(model):
        model(torch.randn(5, 3))
    assert all(a is b for a, b in zip(model.buffers(), before, strict=True))


def test_a_buffer_in_two_places_stays_one():
    model = nn.Sequential(_net(), nn.Identity())
    model[1].register_buffer("mean", model.get_buffer("0.1.running_mean"))
    with preserved(model):
        assert model.get_buffer("1.mean") is model.get_buffer("0.1.running_mean")
    assert model.get_buffer("1.mean") is model.get_buffer("0.1.running_mean")


def test_a_graph_made_before_can_still_be_walked():
    model, x = _net(), torch.randn(5, 3)
    loss = model(x).sum()
    with preserved(model):
        model(x)
    loss.backward()
    assert model[0].weight.grad is not None
