"""A feedback model that knows the real error is as good as the real error."""

import copy

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

import synthgrad as sg
from synthgrad.feedback import Critic, Linear
from synthgrad.interface import Interface
from tests.networks import backward, gradients, network, squares

sizes = st.integers(1, 6)
seeds = st.integers(0, 2**16)


@given(sizes, sizes, st.integers(1, 6), seeds, st.sampled_from([0.0, 0.3]))
def test_a_linear_top_makes_the_error_affine_and_a_conditional_linear_model_exact(
    width, outputs, batch, seed, lambda_
):
    # For a loss |W h + b - y|^2 / 2, the error of h is W'W h - W'y + W'b.
    torch.manual_seed(seed)
    x, y = torch.randn(batch, 3).double(), torch.randn(batch, outputs).double()
    top = nn.Linear(width, outputs).double()
    plain = nn.Sequential(nn.Linear(3, width).double(), nn.Tanh(), top)
    cut = copy.deepcopy(plain)
    sg.decouple(cut, "1", "linear", context=outputs, lambda_=lambda_, example_inputs=x)
    feedback = cut.get_submodule("1.interface.feedback")
    assert isinstance(feedback, Linear)
    feedback.load_state_dict(
        {
            "first.weight": top.weight.T @ top.weight,
            "first.context_weight": -top.weight,
            "first.bias": top.bias @ top.weight,
        }
    )
    backward(plain, x, squares(y))
    backward(cut, x, squares(y), context=y)
    found = gradients(cut)
    assert_close(network(found), gradients(plain))
    for name in found.keys() - network(found).keys():  # and there is nothing left to fit
        assert_close(found[name], torch.zeros_like(found[name]), atol=1e-9, rtol=0)


class _Rest(nn.Module):
    """The loss of each example, as the rest of the network will make it from a message."""

    def __init__(self, above: nn.Module) -> None:
        super().__init__()
        self.above = copy.deepcopy(above)

    def forward(self, h, context):
        return F.cross_entropy(self.above(h), context, reduction="none")


@given(sizes, st.integers(2, 5), st.integers(1, 6), seeds, st.sampled_from(["mean", "sum"]))
def test_a_critic_that_is_the_rest_of_the_network_is_exact(width, classes, batch, seed, reduction):
    torch.manual_seed(seed)
    x, y = torch.randn(batch, 3).double(), torch.randint(classes, (batch,))
    below = nn.Sequential(nn.Linear(3, width), nn.Tanh()).double()
    above = nn.Sequential(nn.Linear(width, 4), nn.Tanh(), nn.Linear(4, classes)).double()
    plain = nn.Sequential(below, above)
    critic = Interface(Critic(_Rest(above)), reduction=reduction)
    cut = nn.Sequential(below, critic, above)

    def loss(output):
        losses = sg.losses(F.cross_entropy(output, y, reduction="none"))
        return losses.mean() if reduction == "mean" else losses.sum()

    backward(plain, x, loss)
    expected = gradients(plain)
    backward(cut, x, loss, context=y)
    assert_close(gradients(plain), expected)
    for parameter in critic.parameters():
        assert parameter.grad is not None
        assert_close(parameter.grad, torch.zeros_like(parameter), atol=1e-9, rtol=0)
