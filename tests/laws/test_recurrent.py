"""The bridge over one boundary: what it must reduce to, and what its gradients must be."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import grad
from torch.testing import assert_close

from synthgrad._nest import floating, with_floating
from synthgrad.feedback import MLP, Feedback, Linear, Zero
from synthgrad.functional import squared_error
from tests.recurrent.cores import (
    CORES,
    UNITS,
    awake,
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
kinds = st.sampled_from(sorted(CORES))


class Oracle(Feedback):
    """Knows the true errors, one boundary after the other."""

    def __init__(self, errors: list[Tensor]) -> None:
        super().__init__()
        self.errors = errors
        self.asked = -1
        self.seen: list[Tensor] = []

    def forward(self, h: Tensor, context: Any = None) -> Tensor:
        return self.errors[context]

    def observe(self, target: Tensor) -> None:
        self.seen.append(target)


def _detached(state):
    return with_floating(state, [t.detach() for t in floating(state)])


def _full(core, xs, ys, unrolls):
    """Full BPTT, and the per-example error of the state at each boundary."""
    state, total, states, start = core.initial(xs.shape[1]), torch.zeros(()), [], 0
    for steps in unrolls:
        chunk = slice(start, start + steps)
        loss, state, _, _ = unroll(core, xs[chunk], ys[chunk], state)
        total, start = total + loss, start + steps
        states.append(state)
    # What lies ahead of each boundary; its own step's loss is not among it.
    ahead = []
    for state, start in zip(states, torch.tensor(unrolls).cumsum(0).tolist(), strict=True):
        leaves = [t.detach().requires_grad_() for t in floating(state)]
        if start == len(xs):
            ahead.append([torch.zeros_like(leaf) for leaf in leaves])
            continue
        loss, *_ = unroll(core, xs[start:], ys[start:], with_floating(state, leaves))
        ahead.append(grad(loss, leaves, allow_unused=True, materialize_grads=True))
    core.zero_grad()
    total.backward()
    dims = batch_dims(core, core.initial(xs.shape[1]))
    return gradients(core), [per_example_rows(e, xs.shape[1], dims) for e in ahead]


def _chunks(core, it, xs, ys, unrolls):
    """The method's gradients, added up over all chunks; no parameter changes."""
    core.zero_grad()
    it.zero_grad()
    state, start = core.initial(xs.shape[1]), 0
    for number, steps in enumerate(unrolls):
        chunk = slice(start, start + steps)
        loss, state, messages, _ = unroll(core, xs[chunk], ys[chunk], it.begin(state))
        (loss + it.end(state, messages[-1], context=number)).backward()
        start += steps
    return gradients(core)


@few
@given(kinds, st.lists(st.integers(1, 3), min_size=1, max_size=4), st.sampled_from([3, 5]), seeds)
def test_an_oracle_at_the_boundary_is_full_bptt(kind, unrolls, batch, seed):
    torch.manual_seed(seed)
    core = CORES[kind]().double()
    if kind.endswith("three layers") and batch == 3:
        batch = 4
    xs, ys = stream(sum(unrolls), batch)
    expected, errors = _full(core, xs, ys, unrolls)
    oracle = Oracle(errors)
    it = bridge(core, oracle, scale=1.0)
    assert_close(_chunks(core, it, xs, ys, unrolls), expected, rtol=1e-9, atol=1e-11)
    # And what arrives is what the oracle said: the fixed point of the bootstrap.
    assert_close(oracle.seen, errors[:-1], rtol=1e-9, atol=1e-11)


def _truncated(core, xs, ys, unrolls):
    core.zero_grad()
    state, start = core.initial(xs.shape[1]), 0
    for steps in unrolls:
        chunk = slice(start, start + steps)
        loss, state, _, _ = unroll(core, xs[chunk], ys[chunk], _detached(state))
        loss.backward()
        start += steps
    return gradients(core)


def _same_bits(found, expected):
    assert found.keys() == expected.keys()
    for name, g in expected.items():
        assert torch.equal(found[name], g), name


@every
@pytest.mark.parametrize("how", ["scale 0", "Zero", "ended", "fresh M"])
def test_without_an_error_it_is_truncated_bptt_bit_for_bit(kind, how):
    core = CORES[kind]().double()
    xs, ys = stream(6, 5)
    fresh = Linear(UNITS, out_features=core.width()).double()
    it = {
        "scale 0": lambda: bridge(core, scale=0.0),
        "Zero": lambda: bridge(core, Zero()),
        "ended": lambda: bridge(core),
        "fresh M": lambda: bridge(core, fresh),  # its last layer is zero (D.1)
    }[how]()
    if how == "ended":
        plain = it.end
        it.end = lambda *args, **options: plain(*args, ended=True)
    _same_bits(_chunks(core, it, xs, ys, [2, 1, 3]), _truncated(core, xs, ys, [2, 1, 3]))


@every
def test_a_chunk_that_is_the_whole_episode_is_bptt_whatever_m_says(kind):
    core = CORES[kind]().double()
    it = bridge(core, scale=1.0)
    xs, ys, messages, expected = *stream(4, 5), [], {}
    for _ in range(2):
        xs, ys = stream(4, 5)
        expected = _truncated(core, xs, ys, [4])
        core.zero_grad()
        state = it.begin(core.initial(5))
        loss, state, messages, _ = unroll(core, xs, ys, state)
        (loss + it.end(state, messages[-1], ended=True)).backward()
        _same_bits(gradients(core), expected)
    # Nothing comes after an episode: M learns to say so.
    target = torch.zeros(5, core.width()).double()
    assert_close(it.explained["boundary"].last[1], torch.zeros(()).double())
    assert squared_error(it.feedback(messages[-1]), target) > 0
    # A last chunk may also just not be ended.
    it.reset()
    core.zero_grad()
    loss, *_ = unroll(core, xs, ys, it.begin(core.initial(5)))
    loss.backward()
    _same_bits(gradients(core), expected)


@few
@given(kinds, st.integers(1, 3), seeds, st.sampled_from([0.1, 1.0]), st.booleans())
def test_every_gradient_is_that_of_the_slow_implementation(kind, steps, seed, scale, summed):
    torch.manual_seed(seed)
    core, batch = CORES[kind]().double(), 5
    it = bridge(core, scale=scale, reduction="sum" if summed else "mean")
    dims = batch_dims(core, core.initial(batch))
    state, kept = core.initial(batch), None
    factor = batch if summed else 1  # of the loss, and with it of every error
    optimizer = torch.optim.SGD([*core.parameters(), *it.parameters()], lr=0.05)
    for _ in range(3):
        xs, ys = stream(steps, batch)
        # slow: explicit leaves, one call of autograd for each thing that is wanted
        leaves = [t.detach().requires_grad_() for t in floating(state)]
        loss, last, messages, _ = unroll(core, xs, ys, with_floating(state, leaves))
        consumed = it.feedback(messages[-1].detach()).detach() * scale / batch * factor
        rows = torch.cat(
            [t.movedim(d, 0).reshape(batch, -1) for t, d in zip(floating(last), dims, strict=True)],
            dim=1,
        )
        surrogate = loss * factor + (rows * consumed).sum()
        parameters = list(core.parameters())
        expected = dict(
            zip(
                [f"0.{name}" for name, _ in core.named_parameters()],
                grad(surrogate, parameters, retain_graph=True),
                strict=True,
            )
        )
        expected |= {f"1.{name}": torch.zeros_like(p) for name, p in it.named_parameters()}
        if kept is not None:
            delta = grad(surrogate, leaves, allow_unused=True, materialize_grads=True)
            target = per_example_rows(delta, batch, dims) / factor
            fit = squared_error(it.feedback(kept), target)
            found = grad(fit, list(it.feedback.parameters()))
            expected |= {
                f"1.feedback.{name}": g
                for (name, _), g in zip(it.feedback.named_parameters(), found, strict=True)
            }
        # ours
        optimizer.zero_grad()
        loss, after, messages, _ = unroll(core, xs, ys, it.begin(state))
        (loss * factor + it.end(after, messages[-1])).backward()
        assert_close(gradients(core, it), expected, rtol=1e-9, atol=1e-11)
        optimizer.step()  # in place: what is kept must not mind
        state, kept = after, messages[-1].detach()


@pytest.mark.parametrize("model", ["linear", "mlp"])
def test_the_arrived_error_can_be_read_off_the_state(model):
    core = CORES["GRUCell"]().double()
    feedback = Linear(UNITS) if model == "linear" else MLP(UNITS, (5,), batch_norm=False)
    it = bridge(core, awake(feedback.double()))
    state = first = core.initial(6)
    for _ in range(2):
        xs, ys = stream(2, 6)
        state = first = it.begin(state)
        loss, state, messages, _ = unroll(core, xs, ys, state)
        (loss + it.end(state, messages[-1])).backward()
    assert first.grad.shape == (6, UNITS)
    error, square = it.explained["boundary"].last
    assert_close(square, (first.grad * 6).square().sum(dim=1).mean())
    assert_close(it.explained["boundary"].now, 1 - error / square)


@few
@given(st.sampled_from(["LSTM", "GRUCell"]), st.integers(2, 4), seeds)
def test_replicating_the_batch_changes_nothing(kind, times, seed):
    torch.manual_seed(seed)
    core = CORES[kind]().double()
    it = bridge(core, auxiliary=awake(Linear(UNITS, out_features=core.width()).double()))
    chunks = [stream(2, 3) for _ in range(2)]

    def run(copies):
        core.zero_grad()
        it.zero_grad()
        it.reset()
        state = core.initial(3 * copies)
        for xs, ys in chunks:
            xs, ys = xs.repeat(1, copies, 1), ys.repeat(1, copies, 1)
            loss, state, messages, _ = unroll(core, xs, ys, it.begin(state))
            (loss + it.end(state, messages[-1], steps=messages)).backward()
        return gradients(core, it), it.explained["boundary"].last.clone()

    assert_close(run(times), run(1), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("weight", [0.25, 1024.0])
def test_a_weighted_loss_weighs_every_gradient(weight):
    core = CORES["LSTM"]().double()
    it = bridge(core, auxiliary=awake(Linear(UNITS, out_features=core.width()).double()))
    chunks = [stream(2, 3) for _ in range(3)]

    def run(weight):
        core.zero_grad()
        it.zero_grad()
        it.reset()
        state = core.initial(3)
        for xs, ys in chunks:
            loss, state, messages, _ = unroll(core, xs, ys, it.begin(state))
            ((loss + it.end(state, messages[-1], steps=messages)) * weight).backward()
        return gradients(core, it), it.explained["boundary"].last.clone()

    (ours, counted), (plain, expected) = run(weight), run(1.0)
    assert_close(ours, {name: g * weight for name, g in plain.items()})
    assert_close(counted, expected)
