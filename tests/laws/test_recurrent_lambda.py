"""BP(λ) over time (supplement A.3): interfaces between the steps of a chunk."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import grad
from torch.testing import assert_close

from synthgrad._nest import floating, with_floating
from synthgrad.functional import squared_error
from tests.recurrent.cores import (
    CORES,
    batch_dims,
    bridge,
    every,
    gradients,
    per_example_rows,
    stream,
    unroll,
)

few = settings(max_examples=10)
seeds = st.integers(0, 2**16)
weights = st.sampled_from([0.0, 1.0]) | st.floats(0, 1)


def _run(core, it, xs, ys, lambdas):
    """One chunk with an interface between any two steps; only the last chunk's gradients."""
    core.zero_grad()
    it.zero_grad()
    state, loss = it.begin(core.initial(xs.shape[1])), torch.zeros(())
    message = xs
    for k, (x, y) in enumerate(zip(xs, ys, strict=True)):
        message, state = core(x, state)
        loss = loss + core.loss(message, y)
        if k < len(lambdas):
            state = it.between(state, message, lambdas[k])
    (loss + it.end(state, message)).backward()
    it.reset()
    return gradients(core, it)


@few
@given(
    st.sampled_from(["LSTM", "GRUCell", "nested"]),
    st.lists(weights, max_size=3),
    st.sampled_from([0.1, 1.0]),
    seeds,
)
def test_every_gradient_is_the_recursion(kind, lambdas, scale, seed):
    """ḡ_k = ∂l_k/∂h_k + λ_k ḡ_{k+1} ∂h_{k+1}/∂h_k + (1 - λ_k) s M(m_k), by explicit products."""
    torch.manual_seed(seed)
    core, batch, steps = CORES[kind]().double(), 3, len(lambdas) + 1
    it = bridge(core, scale=scale)
    xs, ys = stream(steps, batch)
    found = _run(core, it, xs, ys, lambdas)

    # Each step by itself, from detached inputs.
    state, leaves, outs, messages, losses = core.initial(batch), [], [], [], []
    for x, y in zip(xs, ys, strict=True):
        leaf = [t.detach().requires_grad_() for t in floating(state)]
        message, state = core(x, with_floating(state, leaf))
        leaves.append(leaf)
        outs.append(floating(state))
        messages.append(message)
        losses.append(core.loss(message, y))
        state = with_floating(state, [t.detach() for t in floating(state)])
    dims = batch_dims(core, core.initial(batch))

    def synthetic(k):
        rows = it.feedback(messages[k].detach()).detach() / batch
        parts, at = [], 0
        for t, d in zip(outs[k], dims, strict=True):
            width = t.numel() // batch
            shape = t.movedim(d, 0).shape
            parts.append(rows[:, at : at + width].reshape(shape).movedim(0, d))
            at += width
        return parts

    names, parameters = zip(*core.named_parameters(), strict=True)
    expected = {f"0.{name}": torch.zeros_like(p) for name, p in core.named_parameters()}
    expected |= {f"1.{name}": torch.zeros_like(p) for name, p in it.named_parameters()}
    above = None  # ḡ_{k+1} ∂h_{k+1}/∂h_k, from the step above
    for k in reversed(range(steps)):
        lambda_ = lambdas[k] if k < len(lambdas) else 0.0
        error = [(1 - lambda_) * scale * g for g in synthetic(k)]
        if above is not None:
            error = [e + lambda_ * a for e, a in zip(error, above, strict=True)]
            target = per_example_rows(above, batch, dims)
            fit = squared_error(it.feedback(messages[k].detach()), target)
            for (name, p), g in zip(
                it.feedback.named_parameters(),
                grad(fit, list(it.feedback.parameters())),
                strict=True,
            ):
                assert p.shape == g.shape
                expected[f"1.feedback.{name}"] += g
        # The step's own loss joins here; then down through the step.
        found_below = grad(
            [losses[k], *outs[k]],
            [*parameters, *leaves[k]],
            [torch.ones_like(losses[k]), *error],
            allow_unused=True,
            materialize_grads=True,
        )
        for name, g in zip(names, found_below, strict=False):
            expected[f"0.{name}"] += g
        above = found_below[len(parameters) :]
    assert_close(found, expected, rtol=1e-9, atol=1e-11)


@every
def test_at_lambda_one_the_core_gets_the_error_of_the_end_alone_bit_for_bit(kind):
    core = CORES[kind]().double()
    it = bridge(core)
    xs, ys = stream(4, 5)
    found = _run(core, it, xs, ys, [1.0] * 3)
    core.zero_grad()
    loss, state, messages, _ = unroll(core, xs, ys, it.begin(core.initial(5)))
    (loss + it.end(state, messages[-1])).backward()
    expected = gradients(core)
    assert all(torch.equal(found[name], g) for name, g in expected.items())
    # M was fitted at every step all the same.
    assert it.explained["inside"].total is not None


@every
def test_at_lambda_one_without_an_error_at_the_end_it_is_bptt_bit_for_bit(kind):
    core = CORES[kind]().double()
    it = bridge(core, scale=0.0)
    xs, ys = stream(4, 5)
    found = _run(core, it, xs, ys, [1.0] * 3)
    core.zero_grad()
    loss, *_ = unroll(core, xs, ys, core.initial(5))
    loss.backward()
    assert all(torch.equal(found[name], g) for name, g in gradients(core).items())


@every
def test_at_lambda_zero_it_is_the_online_method_with_one_step_a_chunk(kind):
    core = CORES[kind]().double()
    it = bridge(core)
    xs, ys = stream(4, 5)
    inside = _run(core, it, xs, ys, [0.0] * 3)
    core.zero_grad()
    it.zero_grad()
    state = core.initial(5)
    for x, y in zip(xs, ys, strict=True):  # T = 1; it could update after each step
        message, state = core(x, it.begin(state))
        (core.loss(message, y) + it.end(state, message)).backward()
    assert_close(gradients(core, it), inside, rtol=1e-9, atol=1e-11)
