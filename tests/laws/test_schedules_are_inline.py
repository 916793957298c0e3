"""Where all segments go, every schedule gives the gradients and the training of inline use."""

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
from tests.laws.cuts import makers
from tests.networks import awake, backward, chain, gradients, hidden, squares
from tests.schedule.own import everybody

still = partial(SGD, lr=0.0)

every = pytest.mark.parametrize("make", makers.values(), ids=makers.keys())
schedules = {
    "unlocked": sg.Unlocked,
    "sporadic": partial(sg.Sporadic, p_update=1.0),
    "sporadic in order": partial(sg.Sporadic, order="forward"),
    "own": everybody,
}
each = pytest.mark.parametrize("schedule", schedules.values(), ids=schedules.keys())


def _batch(size=6):
    x, y = torch.randn(size, 4).double(), torch.randint(3, (size,))
    return x, y, squares(nn.functional.one_hot(y, 3).double())


@each
@every
def test_every_gradient_and_every_buffer(make, schedule):
    model = awake(make())
    twin = copy.deepcopy(model)
    schedule = schedule(twin, still)
    for step in range(3):  # also what is remembered from step to step
        x, y, loss_fn = _batch()
        expected = backward(model, x, loss_fn, context=y)
        loss = schedule.step(x, loss_fn, context=y)
        assert_close(loss, expected)
        assert_close(gradients(twin), gradients(model), msg=lambda m, s=step: f"step {s}: {m}")
        assert_close(dict(twin.named_buffers()), dict(model.named_buffers()))
    assert gradients(twin)


@each
@every
def test_training(make, schedule):
    model = awake(make(), 0.1)
    twin = copy.deepcopy(model)
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    schedule = schedule(twin, partial(SGD, lr=0.05, momentum=0.9))
    before = copy.deepcopy(model.state_dict())
    for _ in range(5):
        x, y, loss_fn = _batch()
        backward(model, x, loss_fn, context=y)
        optimizer.step()
        schedule.step(x, loss_fn, context=y)
    assert_close(twin.state_dict(), model.state_dict())
    assert any(not torch.equal(before[n], p) for n, p in model.named_parameters())


@each
@given(
    sizes=st.lists(st.integers(1, 5), min_size=3, max_size=6),
    batch=st.integers(1, 5),
    seed=st.integers(0, 2**16),
)
def test_a_chain_of_any_shape_with_summed_losses(schedule, sizes, batch, seed):
    torch.manual_seed(seed)
    model = chain(sizes)
    awake(sg.decouple(model, hidden(model), "linear", reduction="sum"))
    twin = copy.deepcopy(model)
    x, y = torch.randn(batch, sizes[0]).double(), torch.randn(batch, sizes[-1]).double()

    def loss_fn(output):
        return squares(y)(output).sum()

    backward(model, x, loss_fn)
    schedule(twin, still).step(x, loss_fn)
    assert_close(gradients(twin), gradients(model))


@every
def test_sporadic_in_order_is_unlocked_to_the_last_bit(make):
    model = awake(make(), 0.1)
    twin = copy.deepcopy(model)
    adam = partial(torch.optim.Adam, lr=0.01)
    one, other = sg.Unlocked(model, adam), sg.Sporadic(twin, adam, order="forward")
    for _ in range(4):
        x, y, loss_fn = _batch()
        assert_close(
            one.step(x, loss_fn, context=y), other.step(x, loss_fn, context=y), rtol=0, atol=0
        )
    assert_close(twin.state_dict(), model.state_dict(), rtol=0, atol=0)
