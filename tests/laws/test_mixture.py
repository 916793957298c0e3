"""BP(lambda): a chain of interfaces gets the closed form's gradients (METHOD, 3)."""

from collections.abc import Sequence

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import grad
from torch.testing import assert_close

import synthgrad as sg
from synthgrad.functional import mixture, squared_error
from tests.networks import awake, backward, chain, gradients, hidden, interfaces, network, squares

seeds = st.integers(0, 2**16)
weights = st.sampled_from([0.0, 1.0]) | st.floats(0, 1)
chains = st.integers(1, 4).flatmap(
    lambda cuts: st.tuples(
        st.lists(st.integers(1, 6), min_size=cuts + 2, max_size=cuts + 2),
        st.lists(weights, min_size=cuts, max_size=cuts),
    )
)


def _cut(sizes, lambdas, reduction="mean"):
    model = chain(sizes)
    for name, lambda_ in zip(hidden(model), lambdas, strict=True):
        sg.decouple(model, name, "linear", lambda_=lambda_, reduction=reduction)
    awake(model)
    return model


def _closed_form(
    model, lambdas: Sequence[float], x: Tensor, y: Tensor, reduction="mean"
) -> dict[str, Tensor]:
    """Every gradient from explicit vector-Jacobian products; numbers as in the closed form."""
    models = [interface.feedback for interface in interfaces(model)]
    model.eval()  # the interfaces step aside
    messages, h = [], x
    for layer in model:
        h = layer(h)
        messages.append(h)
    loss = squares(y)(messages.pop())
    loss = loss.mean() if reduction == "mean" else loss.sum()
    batch = len(x) if reduction == "mean" else 1

    def carried(n: int, k: int) -> Tensor:
        """``g_k^n``: the error of interface n, or of the loss, brought down to message k."""
        if n == len(messages):
            return grad(loss, messages[k], retain_graph=True)[0]
        error = models[n](messages[n].detach()) / batch
        return grad(messages[n], messages[k], error, retain_graph=True)[0] if n > k else error

    def from_above(k: int) -> Tensor:
        """``z̄_k``: the mixture of the message above, brought down through one layer."""
        if k == len(messages) - 1:
            return carried(k + 1, k)
        return grad(messages[k + 1], messages[k], at(k + 1), retain_graph=True)[0]

    def at(k: int) -> Tensor:
        errors = [carried(n, k) for n in range(k, len(messages) + 1)]
        return mixture(errors, lambdas[k:])

    found: dict[str, Tensor] = {}
    for k, layer in enumerate(model):
        own = {n: p for n, p in layer.named_parameters() if "feedback." not in n}
        sent = grad(loss, list(own.values()), retain_graph=True) if k == len(messages) else ()
        sent = sent or grad(messages[k], list(own.values()), at(k), retain_graph=True)
        found |= {f"{k}.{name}": g for name, g in zip(own, sent, strict=True)}
    for k, feedback in enumerate(models):
        fit = squared_error(feedback(messages[k].detach()), from_above(k).detach() * batch)
        for (name, _), g in zip(
            feedback.named_parameters(), grad(fit, list(feedback.parameters())), strict=True
        ):
            found[f"{k}.interface.feedback.{name}"] = g
    model.train()
    return found


@given(chains, st.integers(1, 5), seeds, st.sampled_from(["mean", "sum"]))
def test_every_gradient_is_the_closed_form(drawn, batch, seed, reduction):
    sizes, lambdas = drawn
    torch.manual_seed(seed)
    model = _cut(sizes, lambdas, reduction)
    x, y = torch.randn(batch, sizes[0]).double(), torch.randn(batch, sizes[-1]).double()
    expected = _closed_form(model, lambdas, x, y, reduction)
    total = (lambda out: squares(y)(out).sum()) if reduction == "sum" else squares(y)
    backward(model, x, total)
    assert_close(gradients(model), expected, rtol=1e-9, atol=1e-11)


@given(st.lists(st.integers(1, 6), min_size=3, max_size=6), st.integers(1, 5), seeds)
def test_at_lambda_zero_the_sender_gets_the_prediction_and_nothing_else(sizes, batch, seed):
    torch.manual_seed(seed)
    model = _cut(sizes, [0.0] * (len(sizes) - 2))
    x, y = torch.randn(batch, sizes[0]).double(), torch.randn(batch, sizes[-1]).double()
    backward(model, x, squares(y))
    found = network(gradients(model))
    model.eval()
    h = x
    for k, interface in enumerate(interfaces(model)):
        own = {n: p for n, p in model[k].named_parameters() if "feedback." not in n}
        h = model[k](h.detach())
        expected = grad(h, list(own.values()), interface.feedback(h.detach()) / batch)
        for name, g in zip(own, expected, strict=True):
            assert torch.equal(found[f"{k}.{name}"], g)


@given(st.lists(st.integers(2, 5), min_size=4, max_size=4), st.floats(0, 1), seeds)
def test_the_message_itself_gets_the_mixture(sizes, lambda_, seed):
    torch.manual_seed(seed)
    model = _cut(sizes, [lambda_, 0.0])
    x, y = torch.randn(3, sizes[0]).double(), torch.randn(3, sizes[-1]).double()
    seen = []
    first = interfaces(model)[0]
    first.register_forward_pre_hook(lambda _, args: args[0].register_hook(seen.append) and None)
    backward(model, x, squares(y))
    model.eval()
    h = model[0](x).detach().requires_grad_()
    above = model[1](h)
    one_step = grad(above, h, interfaces(model)[1].feedback(above.detach()) / 3)[0]
    expected = lambda_ * one_step + (1 - lambda_) * first.feedback(h.detach()) / 3
    assert_close(seen, [expected.detach()])
