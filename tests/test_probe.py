import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

import synthgrad as sg
from synthgrad.errors import ContextError, LockingError
from synthgrad.feedback import MLP, Critic, Feedback, Linear, Stale, Zero
from synthgrad.probe import distance
from tests.networks import Value, awake, backward, chain, hidden, interfaces, squares


class _Oracle(Feedback):
    """Says what it was told."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, h, context=None):
        return self.answer


def _true_errors(model, x, loss_fn):
    """The per-example error of every hidden message, by plain backpropagation."""
    messages = []
    h = x
    for layer in model:
        h = layer(h)
        messages.append(h)
    return [g * len(x) for g in torch.autograd.grad(loss_fn(h).mean(), messages[:-1])]


@given(st.lists(st.integers(1, 5), min_size=3, max_size=5), st.integers(1, 4), st.integers(0, 999))
def test_the_true_error_is_at_no_distance_from_itself(sizes, batch, seed):
    torch.manual_seed(seed)
    model, x, y = chain(sizes), torch.randn(batch, sizes[0]).double(), torch.randn(batch, sizes[-1])
    errors = iter(_true_errors(model, x, squares(y)))
    sg.decouple(model, hidden(model), lambda h: _Oracle(next(errors)), example_inputs=x)
    found = sg.probe(model, squares(y), x)
    assert list(found) == hidden(model)
    for one in found.values():
        assert one.l2 == pytest.approx(0, abs=1e-6)
        assert one.cosine == pytest.approx(1, abs=1e-5)
        assert one.sign_error == 0


@pytest.mark.parametrize(
    ("change", "l2", "cosine", "sign_error"),
    [
        (lambda g: 0 * g, 1.0, 0.0, 1.0),
        (lambda g: -g, 2.0, -1.0, 1.0),
        (lambda g: 3 * g, 2.0, 1.0, 0.0),
    ],
    ids=["zero", "opposite", "threefold"],
)
def test_what_the_three_numbers_are(change, l2, cosine, sign_error):
    model, x, y = chain([3, 4, 2]), torch.randn(5, 3).double(), torch.randn(5, 2).double()
    (true,) = _true_errors(model, x, squares(y))
    sg.decouple(model, "0", lambda h: _Oracle(change(true)), example_inputs=x)
    found = sg.probe(model, squares(y), x)["0"]
    assert found.l2 == pytest.approx(l2 * true.norm(dim=1).mean().item(), rel=1e-5)
    assert found.cosine == pytest.approx(cosine, abs=1e-5)
    assert found.sign_error == sign_error
    assert dict(found) == {"l2": found.l2, "cosine": found.cosine, "sign_error": found.sign_error}


def test_nothing_and_nothing_have_the_same_sign_but_no_angle():
    nothing = torch.zeros(2, 3)
    found = distance(nothing, nothing)
    assert (found.l2, found.cosine, found.sign_error) == (0, 0, 0)
    one_of_three = distance(torch.tensor([[1.0, 0.0, 2.0]]), torch.tensor([[1.0, 0.0, -1.0]]))
    assert one_of_three.sign_error == pytest.approx(1 / 3)


def test_very_small_errors_have_an_angle_too():
    g = torch.randn(4, 3) * 1e-12
    assert distance(g, g).cosine == pytest.approx(1, abs=1e-5)


def test_a_summed_loss_gives_the_same_numbers():
    x, y = torch.randn(5, 3).double(), torch.randn(5, 2).double()
    mean = chain([3, 4, 2])
    summed = copy.deepcopy(mean)
    awake(sg.decouple(mean, "0", "linear"))
    sg.decouple(summed, "0", "linear", reduction="sum").load_state_dict(mean.state_dict())
    expected = sg.probe(mean, squares(y), x)["0"]
    found = sg.probe(summed, lambda out: squares(y)(out).sum(), x)["0"]
    assert_close(torch.tensor(list(found.values())), torch.tensor(list(expected.values())))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("grad", [True, False])
def test_it_leaves_no_trace(training, grad):
    layers = [nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 4), nn.Linear(4, 2)]
    model, x, y = nn.Sequential(*layers), torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    sg.decouple(model, "1", lambda h: MLP(4, (6,), context=3), example_inputs=x)
    sg.decouple(model, "2", lambda h: Stale(0.5), example_inputs=x)
    sg.decouple(model, "3", lambda h: Critic(Value(4)), example_inputs=x)
    backward(awake(model), x, squares(torch.zeros(5, 2)), y)
    model.train(training)
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    grads = {p: p.grad.clone() for p in model.parameters() if p.grad is not None}
    with torch.set_grad_enabled(grad):
        found = sg.probe(model, squares(torch.zeros(5, 2)), x, context=y)
    assert list(found) == ["1", "2", "3"]
    assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is not None and torch.equal(p.grad, g) for p, g in grads.items())
    assert model.training == training
    torch.optim.SGD(model.parameters()).step()  # nor does the audit wait for the probe's messages


def test_it_sees_the_true_gradient_whatever_lambda_is():
    x, y = torch.randn(5, 3).double(), torch.randn(5, 2).double()
    model = awake(sg.decouple(chain([3, 4, 4, 2]), ["0", "1"], "linear", lambda_=0.3))
    first = sg.probe(model, squares(y), x)
    for interface in interfaces(model):
        interface.lambda_ = 1.0
    assert sg.probe(model, squares(y), x) == first


class _Hand(nn.Module):
    def __init__(self, name=None):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.cut = sg.Interface(Linear(3), name=name)
        self.spare = sg.Interface(Linear(3))

    def forward(self, x):
        return self.cut(self.layer(self.cut(self.layer(x))))


def test_the_names_are_given_ones_or_paths_numbered_where_one_runs_again():
    x = torch.randn(4, 3)
    assert list(sg.probe(_Hand(), torch.sum, x)) == ["cut", "cut#2"]
    assert list(sg.probe(_Hand("mine"), torch.sum, x)) == ["mine", "mine#2"]
    parts = [sg.decouple(nn.Sequential(nn.Linear(3, 3)), "0", "linear") for _ in range(2)]
    assert list(sg.probe(nn.Sequential(*parts), torch.sum, x)) == ["0.0.interface", "1.0.interface"]


def test_a_sender_may_be_frozen():
    model, x, y = chain([3, 4, 2]), torch.randn(5, 3).double(), torch.randn(5, 2).double()
    model[0].requires_grad_(False)
    sg.decouple(model, "0", lambda h: Zero(), example_inputs=x)
    assert sg.probe(model, squares(y), x)["0"].l2 > 0


def test_what_cannot_be_probed_is_refused():
    x = torch.randn(4, 3)
    loss_fn: Any = lambda out: F.mse_loss(out.detach().requires_grad_(), out.detach())  # noqa: E731
    with pytest.raises(LockingError, match="Linear has no interface to probe"):
        sg.probe(nn.Linear(3, 3), torch.sum, x)
    with pytest.raises(LockingError, match="interface 'mine': the loss does not depend on its"):
        sg.probe(_Hand("mine"), loss_fn, x)
    model = sg.decouple(chain([3, 4, 2]), "0", "linear", context=3)
    with pytest.raises(ContextError, match="interface '0'"):
        sg.probe(model, torch.sum, x.double())
