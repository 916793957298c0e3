"""Unlocked execution gives the gradients, and so the training, of inline use."""

import copy
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD
from torch.testing import assert_close

import synthgrad as sg
from synthgrad.feedback import MLP, Conv, Critic, Stale, Zero
from tests.networks import (
    FanOut,
    Residual,
    Value,
    awake,
    backward,
    chain,
    gradients,
    hidden,
    squares,
)

still = partial(SGD, lr=0.0)


def _chain(feedback, **options):
    def make():
        model = chain([4, 5, 5, 5, 3])
        return sg.decouple(model, hidden(model), feedback, example_inputs=x, **options)

    x = torch.randn(4, 4).double()
    return make


def _residual():
    model = nn.Sequential(nn.Linear(4, 5), Residual(5), Residual(5), nn.Linear(5, 3)).double()
    return sg.decouple(
        model, ["1", "2"], lambda h: MLP(5, (6,)), example_inputs=torch.ones(2, 4).double()
    )


def _fan_out():
    model = FanOut(4, 5, 3).double()
    return sg.decouple(model, ["first", "second"], "linear", context=3)


def _critics_over_a_fan_out():
    model, x = FanOut(4, 5, 3).double(), torch.randn(2, 4).double()
    return sg.decouple(model, ["first", "second"], lambda h: Critic(Value(5)), example_inputs=x)


def _norms():
    layers = [nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU()) for _ in range(3)]
    model, x = nn.Sequential(*layers, nn.Linear(4, 3)).double(), torch.randn(4, 4).double()
    return sg.decouple(model, hidden(model), lambda h: MLP(4, (6,), context=3), example_inputs=x)


def _images():
    model = nn.Sequential(
        nn.Unflatten(1, (1, 2, 2)),
        nn.Conv2d(1, 3, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(3, 2, 3, padding=1),
        nn.Flatten(),
        nn.Linear(8, 3),
    ).double()
    x = torch.randn(4, 4).double()
    sg.decouple(model, "2", lambda h: Conv(3, (4,), 3, context=3), example_inputs=x)
    return sg.decouple(model, "4", lambda h: MLP(8, ()), example_inputs=x)


def _one_model_behind_two_layers():
    feedback = sg.feedback.Linear(5, context=3)
    model, x = chain([4, 5, 5, 3]), torch.randn(2, 4).double()
    return sg.decouple(model, hidden(model), lambda h: feedback, example_inputs=x)


makers = {
    "unconditional": _chain("linear"),
    "conditional": _chain("linear", context=3),
    "zero": _chain(lambda h: Zero()),
    "stale": _chain(lambda h: Stale(0.5)),
    "critics": _chain(lambda h: Critic(Value(5))),
    "residual": _residual,
    "fan-out": _fan_out,
    "critics over a fan-out": _critics_over_a_fan_out,
    "batch norm": _norms,
    "images": _images,
    "shared feedback": _one_model_behind_two_layers,
}
every = pytest.mark.parametrize("make", makers.values(), ids=makers.keys())


def _batch(size=6):
    x, y = torch.randn(size, 4).double(), torch.randint(3, (size,))
    return x, y, squares(nn.functional.one_hot(y, 3).double())


@every
def test_every_gradient_and_every_buffer(make):
    model = awake(make())
    twin = copy.deepcopy(model)
    schedule = sg.Unlocked(twin, still)
    for step in range(3):  # also what is remembered from step to step
        x, y, loss_fn = _batch()
        expected = backward(model, x, loss_fn, context=y)
        loss = schedule.step(x, loss_fn, context=y)
        assert_close(loss, expected)
        assert_close(gradients(twin), gradients(model), msg=lambda m, s=step: f"step {s}: {m}")
        assert_close(dict(twin.named_buffers()), dict(model.named_buffers()))
    assert gradients(twin)


@every
def test_training(make):
    model = awake(make(), 0.1)
    twin = copy.deepcopy(model)
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    schedule = sg.Unlocked(twin, partial(SGD, lr=0.05, momentum=0.9))
    before = copy.deepcopy(model.state_dict())
    for _ in range(5):
        x, y, loss_fn = _batch()
        backward(model, x, loss_fn, context=y)
        optimizer.step()
        schedule.step(x, loss_fn, context=y)
    assert_close(twin.state_dict(), model.state_dict())
    assert any(not torch.equal(before[n], p) for n, p in model.named_parameters())


@given(
    st.lists(st.integers(1, 5), min_size=3, max_size=6), st.integers(1, 5), st.integers(0, 2**16)
)
def test_a_chain_of_any_shape_with_summed_losses(sizes, batch, seed):
    torch.manual_seed(seed)
    model = chain(sizes)
    awake(sg.decouple(model, hidden(model), "linear", reduction="sum"))
    twin = copy.deepcopy(model)
    x, y = torch.randn(batch, sizes[0]).double(), torch.randn(batch, sizes[-1]).double()

    def loss_fn(output):
        return squares(y)(output).sum()

    backward(model, x, loss_fn)
    sg.Unlocked(twin, still).step(x, loss_fn)
    assert_close(gradients(twin), gradients(model))
