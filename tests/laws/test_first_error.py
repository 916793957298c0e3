"""The last layer of every learned model starts at zero, so the first synthetic error is zero."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import synthgrad as sg
from synthgrad.feedback import MLP, Conv, Linear
from tests.networks import awake, backward, chain, gradients, hidden, network, squares

seeds = st.integers(0, 2**16)
sizes = st.integers(1, 6)


@given(
    sizes, st.lists(sizes, max_size=3), st.integers(0, 3), st.sampled_from([(4,), (2, 3)]), seeds
)
def test_of_mlp_and_linear(features, layers, classes, positions, seed):
    torch.manual_seed(seed)
    feedback = MLP(features, layers, context=classes) if layers else Linear(features, classes)
    h = torch.randn(*positions, features)
    labels = torch.randint(classes, positions[:1]) if classes else None
    assert torch.equal(feedback(h, labels), torch.zeros_like(h))


@given(sizes, st.lists(sizes, max_size=2), st.integers(0, 3), st.sampled_from([1, 3, 5]), seeds)
def test_of_conv(channels, layers, classes, kernel, seed):
    torch.manual_seed(seed)
    feedback = Conv(channels, layers, kernel, context=classes)
    h = torch.randn(3, channels, 2, 4)
    labels = torch.randint(classes, (3,)) if classes else None
    assert torch.equal(feedback(h, labels), torch.zeros_like(h))


def test_only_the_last_layer_starts_so():
    for feedback in (MLP(4, (3, 2)), Conv(4, (3, 2), 3)):
        *inner, _, _ = (p for p in feedback.parameters() if p.ndim > 1)
        assert inner
        assert all(p.any() for p in inner)


@pytest.mark.parametrize("feedback", ["linear", "mlp"])
def test_so_the_first_update_leaves_all_but_the_last_layer_where_it_was(feedback):
    model, x = chain([3, 4, 4, 2]), torch.randn(5, 3).double()
    sg.decouple(model, hidden(model), feedback, example_inputs=x)
    backward(model, x, squares(torch.randn(5, 2).double()))
    found = network(gradients(model))
    assert {name for name, g in found.items() if g.any()} == {"2.weight", "2.bias"}
    backward(awake(model), x, squares(torch.randn(5, 2).double()))
    assert all(g.any() for g in network(gradients(model)).values())
