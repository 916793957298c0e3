"""At lambda 1 the network gets backpropagation, to the last bit, and M is fitted already."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import synthgrad as sg
from synthgrad.feedback import MLP, Critic
from tests.networks import (
    FanOut,
    Residual,
    Value,
    awake,
    backward,
    chain,
    gradients,
    hidden,
    interfaces,
    network,
    squares,
)

seeds = st.integers(0, 2**16)
widths = st.lists(st.integers(1, 7), min_size=3, max_size=6)
precisions = st.sampled_from([torch.float32, torch.float64, torch.bfloat16])


def _equal_to_backprop(plain, cut, x, loss_fn, context=None):
    backward(plain, x, loss_fn)
    backward(cut, x, loss_fn, context)
    expected, found = gradients(plain), network(gradients(cut))
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], g) for name, g in expected.items())
    for interface in interfaces(cut):
        assert any(p.grad is not None and p.grad.any() for p in interface.feedback.parameters())
        assert interface.record.answered


@given(widths, st.integers(1, 5), seeds, precisions)
def test_chain(sizes, batch, seed, dtype):
    torch.manual_seed(seed)
    plain, x = chain(sizes, dtype), torch.randn(batch, sizes[0], dtype=dtype)
    cut = sg.decouple(copy.deepcopy(plain), hidden(plain), "linear", lambda_=1.0, example_inputs=x)
    _equal_to_backprop(plain, awake(cut), x, squares(torch.randn(batch, sizes[-1], dtype=dtype)))


@given(widths, st.integers(1, 4), st.integers(1, 3), seeds)
def test_messages_with_a_time_axis(sizes, batch, time, seed):
    torch.manual_seed(seed)
    plain, x = chain(sizes), torch.randn(batch, time, sizes[0]).double()
    cut = sg.decouple(copy.deepcopy(plain), hidden(plain), "linear", lambda_=1.0, example_inputs=x)
    target = torch.randn(batch, time, sizes[-1]).double()
    _equal_to_backprop(plain, awake(cut), x, squares(target))


@given(st.integers(1, 4), st.integers(2, 6), seeds)
def test_convolutions(channels, side, seed):
    torch.manual_seed(seed)
    x = torch.randn(3, 2, side, side).double()
    plain = nn.Sequential(
        nn.Conv2d(2, channels, 3, padding="same"),
        nn.ReLU(),
        nn.Conv2d(channels, 2, 3, padding="same"),
        nn.Flatten(),
        nn.Linear(2 * side * side, 3),
    ).double()
    cut = copy.deepcopy(plain)
    sg.decouple(cut, ["1", "2"], "conv", context=3, lambda_=1.0, example_inputs=x)
    target = torch.randn(3, 3).double()
    _equal_to_backprop(plain, awake(cut, 0.1), x, squares(target), torch.tensor([0, 2, 1]))


@given(st.integers(1, 5), st.integers(1, 5), seeds)
def test_fan_out(width, batch, seed):
    torch.manual_seed(seed)
    x = torch.randn(batch, 3).double()
    plain = FanOut(3, width, 2).double()
    cut = copy.deepcopy(plain)
    sg.decouple(cut, ["first", "second"], "linear", lambda_=1.0, example_inputs=x)
    _equal_to_backprop(plain, awake(cut), x, squares(torch.randn(batch, 2).double()))


@pytest.mark.parametrize("kind", ["mlp", "critic"])
def test_every_kind_of_fit(kind):
    x, width = torch.randn(6, 4).double(), 5
    plain = nn.Sequential(nn.Linear(4, width), Residual(width), nn.Linear(width, 2)).double()
    make = {"mlp": lambda h: MLP(width, (7,)), "critic": lambda h: Critic(Value(width))}[kind]
    cut = sg.decouple(copy.deepcopy(plain), ["0", "1"], make, lambda_=1.0, example_inputs=x)
    _equal_to_backprop(plain, awake(cut), x, squares(torch.randn(6, 2).double()))


def test_no_longer_at_any_other_lambda():
    plain, x = chain([3, 4, 2]), torch.randn(5, 3).double()
    cut = sg.decouple(copy.deepcopy(plain), "0", "linear", lambda_=0.999, example_inputs=x)
    with pytest.raises(AssertionError):
        _equal_to_backprop(plain, awake(cut), x, squares(torch.randn(5, 2).double()))
