"""What is meant to learn learns: from fixed senders and receivers, and for a whole network."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

import synthgrad as sg
from synthgrad.feedback import MLP, Conv, Critic, Linear, Stale
from tests.networks import Value, backward

CLASSES = 3


def _fixed_ends(message):
    """A frozen sender, a frozen receiver, and one batch of inputs and labels between them."""
    features = torch.Size(message).numel()
    sender = nn.Sequential(nn.Linear(5, features), nn.Tanh(), nn.Unflatten(1, message))
    receiver = nn.Sequential(nn.Flatten(), nn.Linear(features, 8), nn.Tanh(), nn.Linear(8, CLASSES))
    for parameter in (*sender.parameters(), *receiver.parameters()):
        parameter.requires_grad_(False)
    return sender, receiver, torch.randn(32, 5), torch.randint(CLASSES, (32,))


@pytest.mark.parametrize(
    ("feedback", "message", "factor"),
    [
        (lambda: Linear(6, CLASSES), (6,), 10),
        (lambda: MLP(6, (32,)), (6,), 10),
        (lambda: MLP(6, (32, 32), CLASSES), (6,), 100),
        (lambda: Linear(6, CLASSES), (2, 6), 2),
        (lambda: MLP(6, (32,), CLASSES), (2, 6), 4),
        (lambda: Conv(4, (16,), 3), (4, 3, 3), 4),
        (lambda: Conv(4, (16, 16), 3, CLASSES), (4, 3, 3), 10),
        (lambda: Critic(Value(6, CLASSES)), (6,), 10),
        (lambda: Critic(Value(12)), (2, 6), 2),
    ],
    ids=["linear", "mlp", "mlp-c", "linear-t", "mlp-t", "conv", "conv-c", "critic-c", "critic"],
)
def test_each_model_comes_to_predict_what_it_is_fitted_to(feedback, message, factor):
    sender, receiver, x, y = _fixed_ends(message)
    interface = sg.Interface(feedback())
    model = nn.Sequential(sender, interface, receiver)
    optimizer = torch.optim.Adam(interface.parameters(), lr=1e-2)
    h = sender(x).requires_grad_()
    losses = F.cross_entropy(receiver(h), y, reduction="none")
    target = torch.autograd.grad(losses.sum(), h)[0]
    target = losses.detach() if interface.feedback.fitted_to == "loss" else target

    def unexplained():
        loss = interface.feedback.loss(h.detach(), target, y)
        assert loss is not None
        return loss.item()

    before = unexplained()
    for _ in range(300):
        backward(model, x, lambda out: F.cross_entropy(out, y, reduction="none"), context=y)
        optimizer.step()
    assert unexplained() < before / factor


def test_stale_comes_to_be_the_mean_error():
    _, receiver, _, _ = _fixed_ends((6,))
    interface = sg.Interface(Stale(0.95))
    sender = nn.Linear(5, 6)
    model = nn.Sequential(sender, interface, receiver)
    torch.manual_seed(1)
    x, y = torch.randn(32, 5), torch.randint(CLASSES, (32,))
    h = sender(x).detach().requires_grad_()
    mean = torch.autograd.grad(F.cross_entropy(receiver(h), y), h)[0].sum(dim=0)
    for step in range(1, 101):
        backward(model, x, lambda out: F.cross_entropy(out, y))
        assert_close(interface.feedback.average, (1 - 0.95**step) * mean)


def _clusters(seed):
    """Three clusters in so many noisy dimensions that few random features tell them apart."""
    centres = torch.randn(CLASSES, 30, generator=torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(CLASSES, (128,), generator=generator)
    return centres[y] + torch.randn(128, 30, generator=generator), y


def _error(feedback, context, schedule):
    """The share of wrong answers on fresh data after training a deep and narrow network."""
    layers = [nn.Sequential(nn.Linear(i, 4), nn.Tanh()) for i in (30, 4, 4)]
    model = nn.Sequential(*layers, nn.Linear(4, CLASSES))
    example = torch.zeros(2, 30)
    sg.decouple(model, ["0", "1", "2"], feedback, context=context, example_inputs=example)
    adam = partial(torch.optim.Adam, lr=1e-2)
    unlocked, inline = sg.Unlocked(model, adam), adam(model.parameters())
    for step in range(300):
        x, y = _clusters(step)
        if schedule == "unlocked":
            unlocked.step(x, lambda out, y=y: F.cross_entropy(out, y), context=y)
        else:
            backward(model, x, lambda out, y=y: F.cross_entropy(out, y), context=y)
            inline.step()
    x, y = _clusters(10_000)
    return (model.eval()(x).argmax(dim=1) != y).float().mean().item()


@pytest.mark.parametrize("schedule", ["inline", "unlocked"])
def test_a_network_trains_with_cdni_and_hardly_without_feedback(schedule):
    assert _error("linear", CLASSES, schedule) < 0.02
    assert _error(lambda h: sg.feedback.Zero(), 0, schedule) > 0.15
