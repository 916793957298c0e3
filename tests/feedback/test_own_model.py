"""A feedback model of the user's own: predicts, says what it is fitted to, and nothing else."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import synthgrad as sg
from synthgrad.errors import ArgumentError
from synthgrad.feedback import MLP, Conv, Feedback, Linear, Stale
from synthgrad.functional import squared_error
from tests.networks import awake, backward, chain, gradients, hidden, squares


class _Own(Feedback):
    """Predicts as Linear does, and is fitted to the same; but the library cannot know."""

    def __init__(self, features):
        super().__init__()
        self.first = nn.Linear(features, features)

    def forward(self, h, context=None):
        return self.first(h)

    def loss(self, h, target, context=None) -> torch.Tensor | None:
        return squared_error(self(h), target)


class _Trusting(_Own):
    """Has parameters, and leaves them as they are."""

    def loss(self, h, target, context=None):
        return None


def _model(make, reduction):
    model, x = chain([3, 4, 4, 2]), torch.randn(2, 3).double()
    names = hidden(model)
    return sg.decouple(model, names, make, lambda_=0.25, reduction=reduction, example_inputs=x)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_its_own_loss_is_what_it_is_fitted_to(reduction):
    builtin, own = (_model(make, reduction) for make in (lambda h: Linear(4), lambda h: _Own(4)))
    awake(builtin)
    own.load_state_dict(builtin.state_dict())
    x, y = torch.randn(5, 3).double(), torch.randn(5, 2).double()

    def loss_fn(output):
        losses = squares(y)(output)
        return losses.mean() if reduction == "mean" else losses.sum()

    for model in (builtin, own):
        backward(model, x, loss_fn)
    assert_close(gradients(own), gradients(builtin))


def test_without_a_loss_it_stays_as_it_is():
    model = awake(_model(lambda h: _Trusting(4), "mean"))
    backward(model, torch.randn(5, 3).double(), squares(torch.zeros(5, 2).double()))
    found = gradients(model)
    assert {name for name in found if "feedback" in name} == set()
    assert found["0.0.weight"].any()


def test_unlocked_too():
    model = _model(lambda h: _Own(4), "mean")
    for interface in (m for m in model.modules() if isinstance(m, sg.Interface)):
        interface.lambda_ = 0.0
    awake(model)
    twin = copy.deepcopy(model)
    x, y = torch.randn(5, 3).double(), torch.randn(5, 2).double()
    backward(model, x, squares(y))
    sg.Unlocked(twin, partial(torch.optim.SGD, lr=0.0)).step(x, squares(y))
    assert_close(gradients(twin), gradients(model))


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Linear(0), "features must be an integer of at least 1, got 0"),
        (lambda: MLP(3, (4, -1)), "hidden must be an integer of at least 1, got -1"),
        (lambda: MLP(3, context=-1), "context must be an integer of at least 0, got -1"),
        (lambda: Conv(2, (4.0,)), "hidden must be .* got 4.0"),  # pyright: ignore
        (lambda: Conv(True), "channels must be .* got True"),
        (lambda: Conv(2, kernel_size=0), "kernel_size must be .* got 0"),
        (lambda: Stale(1.0), r"decay must lie in \[0, 1\), got 1.0"),
        (lambda: Stale(float("nan")), r"decay must be a finite number, got nan"),
    ],
)
def test_a_built_in_model_of_an_impossible_size_is_refused(make, complaint):
    with pytest.raises(ArgumentError, match=complaint):
        make()
