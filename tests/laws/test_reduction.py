"""What M predicts is the error of one example, however the loss joins a batch."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

import synthgrad as sg
from synthgrad.feedback import Critic, Stale
from tests.networks import Value, awake, backward, chain, gradients, hidden, network, squares

seeds = st.integers(0, 2**16)


def _pair(kind, lambda_, width=4):
    """The same network and feedback models, for a loss that is a mean and for one that is a sum."""
    plain = chain([3, width, width, 2])
    make = {"linear": "linear", "critic": lambda h: Critic(Value(width))}[kind]
    x = torch.randn(1, 3).double()
    names = hidden(plain)
    mean = sg.decouple(copy.deepcopy(plain), names, make, lambda_=lambda_, example_inputs=x)
    summed = sg.decouple(plain, names, make, lambda_=lambda_, example_inputs=x, reduction="sum")
    awake(mean)
    summed.load_state_dict(mean.state_dict())
    return mean, summed


@pytest.mark.parametrize("kind", ["linear", "critic"])
@given(batch=st.integers(1, 7), lambda_=st.floats(0, 1), seed=seeds)
def test_a_sum_gives_the_network_batch_times_the_gradient_and_the_models_the_same(
    kind, batch, lambda_, seed
):
    torch.manual_seed(seed)
    mean, summed = _pair(kind, lambda_)
    x, y = torch.randn(batch, 3).double(), torch.randn(batch, 2).double()
    backward(mean, x, squares(y))
    backward(summed, x, lambda out: sg.losses(squares(y)(out)).sum())
    expected, found = gradients(mean), gradients(summed)
    assert found.keys() == expected.keys()
    for name, g in expected.items():
        assert_close(found[name], g * batch if name in network(expected) else g)


@given(st.integers(1, 5), st.floats(0, 1), seeds)
def test_a_batch_given_twice_changes_no_gradient(batch, lambda_, seed):
    torch.manual_seed(seed)
    model, _ = _pair("linear", lambda_)
    x, y = torch.randn(batch, 3).double(), torch.randn(batch, 2).double()
    backward(model, x, squares(y))
    once = gradients(model)
    backward(model, x.repeat(2, 1), squares(y.repeat(2, 1)))
    assert_close(gradients(model), once)


@given(st.integers(1, 5), seeds)
def test_stale_remembers_the_error_of_one_example(batch, seed):
    torch.manual_seed(seed)
    averages = []
    for reduction in ("mean", "sum"):
        stale = Stale(0.5)
        h = torch.randn(batch, 3, generator=torch.Generator().manual_seed(seed))
        message = sg.Interface(stale, reduction=reduction)(h.requires_grad_())
        losses = squares(torch.zeros(batch, 3))(message)
        (losses.mean() if reduction == "mean" else losses.sum()).backward()
        averages.append(stale.average)
    assert_close(*averages)
    assert_close(averages[0], 0.5 * h.detach().mean(dim=0))
