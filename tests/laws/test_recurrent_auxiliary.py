"""The auxiliary task (fig. 2 b), and regression errors that flow into the core (fig. 10)."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import grad
from torch.testing import assert_close

from synthgrad._nest import floating, with_floating
from synthgrad.feedback import Linear
from tests.recurrent.cores import CORES, UNITS, awake, bridge, errors, gradients, stream, unroll

few = settings(max_examples=10)
seeds = st.integers(0, 2**16)


def _detached(state):
    return with_floating(state, [t.detach() for t in floating(state)])


def _model(core):
    return awake(Linear(UNITS, out_features=core.width()).double())


@few
@given(st.sampled_from(["LSTM", "GRUCell"]), st.integers(1, 4), st.booleans(), seeds)
def test_each_step_is_fitted_to_what_m_says_exactly_t_steps_later(kind, steps, masked, seed):
    """A diary of the whole stream by global time; prediction t is looked up at t + T."""
    torch.manual_seed(seed)
    core, batch = CORES[kind]().double(), 4
    it = bridge(core, auxiliary=_model(core))
    optimizer = torch.optim.SGD([*core.parameters(), *it.parameters()], lr=0.05)
    state, diary, said = core.initial(batch), {}, {}
    ended = torch.tensor([True, False, False, True]) if masked else False
    for number in range(3):
        xs, ys = stream(steps, batch)
        optimizer.zero_grad()
        loss, state, messages, _ = unroll(core, xs, ys, it.begin(state, ended=ended))
        (loss + it.end(state, messages[-1], steps=messages)).backward()

        expected = {name: torch.zeros_like(p) for name, p in it.auxiliary.named_parameters()}
        error = square = torch.zeros(()).double()
        for i, message in enumerate(messages):
            t = number * steps + i
            diary[t] = message.detach()
            said[t] = it.feedback(diary[t]).detach()  # δ̂_t, by M as it was in that chunk
            if t - steps not in diary:
                continue
            target = said[t].clone()
            if masked:
                target[ended] = 0
            rows = [  # one example after the other
                (it.auxiliary(diary[t - steps][b : b + 1]) - target[b]).square().sum()
                for b in range(batch)
            ]
            fit = torch.stack(rows).mean()
            error, square = error + fit.detach(), square + target.square().sum() / batch
            for (name, _), g in zip(
                it.auxiliary.named_parameters(),
                grad(fit, list(it.auxiliary.parameters())),
                strict=True,
            ):
                expected[name] += g
        found = gradients(it.auxiliary)
        assert_close(found, {f"0.{n}": g for n, g in expected.items()}, rtol=1e-9, atol=1e-11)
        if number:
            assert_close(it.explained["auxiliary"].last, torch.stack([error, square]))
        optimizer.step()


@few
@given(
    st.sampled_from(["LSTM", "LSTMCell", "nested"]),
    st.integers(1, 3),
    st.booleans(),
    st.sampled_from(["nothing", "last", "all"]),
    seeds,
)
def test_what_flows_into_the_core_is_the_gradient_of_a_core_kept_in_memory(
    kind, steps, of_m, auxiliary, seed
):
    torch.manual_seed(seed)
    core, batch = CORES[kind]().double(), 4
    if auxiliary == "nothing" and not of_m:
        of_m = True

    def again(xs, state):
        """All messages of a chunk, or the last one."""
        messages = []
        for x in xs:
            message, state = core(x, state)
            messages.append(message)
        return torch.stack(messages) if auxiliary == "all" else messages[-1]

    it = bridge(
        core,
        auxiliary=None if auxiliary == "nothing" else _model(core),
        last_core=again,
        feedback_into_core=of_m,
    )
    plain = bridge(core, it.feedback)
    optimizer = torch.optim.SGD([*core.parameters(), *it.parameters()], lr=0.05)
    state, kept = core.initial(batch), None
    for _ in range(3):
        xs, ys = stream(steps, batch)
        # without anything that flows into the core
        core.zero_grad()
        first = plain.begin(state)
        loss, last, messages, _ = unroll(core, xs, ys, first)
        (loss + plain.end(last, messages[-1])).backward()
        expected = gradients(core)
        if kept is not None:
            # cores kept in memory, with what they were given then and today's parameters
            olds, old = [], _detached(kept[1])
            for x in kept[0]:
                message, old = core(x, old)
                olds.append(message)
            total = torch.zeros(())
            if of_m:
                dims = [1, 1] if kind == "LSTM" else [0, 0]
                rows = [
                    error.movedim(d, 0).reshape(batch, -1) * batch
                    for error, d in zip(errors(first), dims, strict=True)
                ]
                target = torch.cat(rows, dim=1)
                total = total + (it.feedback(olds[-1]) - target).square().sum() / batch
            pairs = (
                []
                if auxiliary == "nothing"
                else list(zip(olds[::-1], messages[::-1], strict=False))
            )
            for message, now in pairs:
                target = it.feedback(now).detach()
                total = total + (it.auxiliary(message) - target).square().sum() / batch
            parameters = dict(core.named_parameters())
            found = grad(
                total, list(parameters.values()), allow_unused=True, materialize_grads=True
            )
            for name, g in zip(parameters, found, strict=True):
                expected[f"0.{name}"] = expected[f"0.{name}"] + g
        # ours
        optimizer.zero_grad()
        start = _detached(state)
        loss, state, messages, before = unroll(core, xs, ys, it.begin(state))
        inputs = (xs, start) if auxiliary == "all" else (xs[-1:], before)
        end = it.end(
            state,
            messages[-1],
            steps=None if auxiliary == "nothing" else messages,
            inputs=inputs,
        )
        (loss + end).backward()
        assert_close(gradients(core), expected, rtol=1e-9, atol=1e-11)
        optimizer.step()
        kept = inputs


def test_without_last_core_no_regression_error_reaches_the_core():
    core = CORES["LSTM"]().double()
    found = []
    for auxiliary in (None, _model(core)):
        torch.manual_seed(1)
        it = bridge(core, auxiliary=auxiliary)  # M and the stream: the same random numbers
        core.zero_grad()
        state = core.initial(3)
        for _ in range(3):
            xs, ys = stream(2, 3)
            loss, state, messages, _ = unroll(core, xs, ys, it.begin(state))
            end = it.end(state, messages[-1], steps=messages if auxiliary else None)
            (loss + end).backward()
        found.append(gradients(core))
    assert_close(found[0], found[1], rtol=0, atol=0)


@pytest.mark.parametrize("auxiliary", [False, True])
def test_the_scalar_of_end_is_zero(auxiliary):
    core = CORES["LSTM"]().double()
    it = bridge(core, auxiliary=_model(core) if auxiliary else None)
    state = core.initial(3)
    for _ in range(2):
        xs, ys = stream(2, 3)
        loss, state, messages, _ = unroll(core, xs, ys, it.begin(state))
        end = it.end(state, messages[-1], steps=messages if auxiliary else None)
        assert end.shape == ()
        assert end == 0
        assert loss + end == loss
