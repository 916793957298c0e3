from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

import synthgrad as sg
from synthgrad.errors import LockingError, ShapeError
from synthgrad.feedback import Critic, Linear
from tests.networks import FanOut, Value, awake, backward, chain, gradients, hidden, squares


def _fit(critic: Critic, message, target):
    """The gradients of the critic's own loss for a given target, by hand."""
    critic.zero_grad()
    loss = critic.loss(message.detach(), target)
    assert loss is not None
    loss.backward()
    return gradients(critic)


def _critics(model, x, names, lambdas) -> list[Critic]:
    for name, lambda_ in zip(names, lambdas, strict=True):
        sg.decouple(
            model, name, lambda h: Critic(Value(h.shape[1])), lambda_=lambda_, example_inputs=x
        )
    awake(model)
    return [m for m in model.modules() if isinstance(m, Critic)]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=3), st.integers(1, 4), st.integers(0, 999))
def test_a_critic_is_fitted_to_the_mixture_above_and_the_last_to_the_loss(lambdas, batch, seed):
    torch.manual_seed(seed)
    sizes = [*[3, 4, 2, 5][: len(lambdas) + 1], 2]
    model, x, y = chain(sizes), torch.randn(batch, 3).double(), torch.randn(batch, 2).double()
    critics = _critics(model, x, hidden(model), lambdas)
    backward(model, x, squares(y))
    found = gradients(model)
    model.eval()
    messages = [x]
    for layer in model:
        messages.append(layer(messages[-1]))
    mixed = target = squares(y)(messages.pop()).detach()
    for k in reversed(range(len(lambdas))):
        critic, message = critics[k], messages[k + 1]
        target = mixed
        expected = _fit(critic, message, target)
        for name, g in expected.items():
            assert_close(found[f"{k}.interface.feedback.{name}"], g)
        with torch.no_grad():
            mixed = lambdas[k] * target + (1 - lambdas[k]) * critic.values(message)


def test_where_a_message_fans_out_the_values_above_are_averaged():
    model, x, y = FanOut(3, 4, 2).double(), torch.randn(5, 3).double(), torch.randn(5, 2).double()
    first, second = _critics(model, x, ["first", "second"], [0.0, 0.0])
    backward(model, x, squares(y))
    found = gradients(model)
    model.eval()
    h = model.first(x).detach()
    k = model.second(h.tanh()).detach()
    losses = squares(y)(model(x)).detach()
    for name, critic, message, target in (
        ("second", second, k, losses),
        ("first", first, h, (losses + second.values(k).detach()) / 2),
    ):
        for parameter, g in _fit(critic, message, target).items():
            assert_close(found[f"{name}.interface.feedback.{parameter}"], g)


def test_a_model_in_between_that_predicts_errors_lets_values_pass():
    model, x, y = chain([3, 4, 4, 2]), torch.randn(5, 3).double(), torch.randn(5, 2).double()
    (critic,) = _critics(model, x, ["0"], [0.0])
    sg.decouple(model, "1", lambda h: Linear(4), example_inputs=x)
    backward(model, x, squares(y))
    found = gradients(model.get_submodule("0.interface.feedback"))
    model.eval()
    assert_close(found, _fit(critic, model[0](x), squares(y)(model(x)).detach()))


def test_values_of_one_pass_do_not_leak_into_the_next():
    model, x, y = chain([3, 4, 2]), torch.randn(5, 3).double(), torch.randn(5, 2).double()
    _critics(model, x, ["0"], [0.0])
    backward(model, x, squares(y))
    expected = gradients(model)
    backward(model, x, squares(y + 100))
    backward(model, x, squares(y))
    assert_close(gradients(model), expected)


def test_losses_is_the_identity():
    given_losses = torch.randn(4, requires_grad=True)
    assert sg.losses(given_losses) is given_losses
    plain = torch.randn(4)
    assert sg.losses(plain) is plain


@pytest.mark.parametrize("shape", [(), (4, 1), (2, 3)])
def test_losses_are_one_per_example(shape):
    with pytest.raises(ShapeError, match=r"one loss per example, \(batch,\), got .* of shape \("):
        sg.losses(torch.ones(shape))


@pytest.mark.parametrize("schedule", ["inline", "unlocked"])
def test_a_critic_that_no_value_reached_says_so(schedule):
    model, x = chain([3, 4, 2]), torch.randn(5, 3).double()
    _critics(model, x, ["0"], [0.0])
    unlocked = sg.Unlocked(model, torch.optim.SGD).step
    step = partial(backward, model) if schedule == "inline" else unlocked
    with pytest.raises(LockingError, match=r"interface '0': .*saw none.*synthgrad\.losses"):
        step(x, lambda out: out.square().mean())


def test_a_frozen_critic_needs_no_value_and_passes_on_its_own():
    model, x = chain([3, 4, 4, 2]), torch.randn(5, 3).double()
    first, second = _critics(model, x, ["0", "1"], [0.0, 0.0])
    second.requires_grad_(False)
    model(x).square().mean().backward()  # without sg.losses
    found = gradients(first)
    model.eval()
    h = model[0](x)
    assert_close(found, _fit(first, h, second.values(model[1](h)).detach()))
    assert not gradients(second)


class _Column(nn.Module):
    def forward(self, h, context):
        return h.sum(dim=1, keepdim=True)


def test_a_critic_s_value_is_one_number_per_example():
    interface = sg.Interface(Critic(_Column()), name="it")
    with pytest.raises(
        ShapeError, match=r"'it': .*shape \(5,\).*_Column returned .* of shape \(5, 1\)"
    ):
        interface(torch.randn(5, 3))
    with pytest.raises(ShapeError, match=r"expected shape \(5,\), got .* of shape \(5, 3\)"):
        Critic(Value(3)).loss(torch.randn(5, 3), torch.randn(5, 3))
