"""Rows of a stream whose episode ends while the others go on."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import synthgrad as sg
from synthgrad._nest import floating, with_floating
from synthgrad.feedback import Linear
from tests.recurrent.cores import (
    CORES,
    UNITS,
    awake,
    batch_dims,
    bridge,
    errors,
    every,
    gradients,
    stream,
    unroll,
)

ENDED = torch.tensor([True, False, True, False, False])


def _grad(core, it, state, **options):
    """One chunk from ``state``; the state it began with."""
    xs, ys = stream(2, 5)
    first = it.begin(state, **options)
    loss, state, messages, _ = unroll(core, xs, ys, first)
    (loss + it.end(state, messages[-1])).backward()
    return first, state


@every
@pytest.mark.parametrize("where", ["begin", "end"])
def test_rows_that_ended_take_a_zero_target(kind, where):
    core = CORES[kind]().double()
    it = bridge(core)
    xs, ys = stream(2, 5)
    loss, state, messages, _ = unroll(core, xs, ys, it.begin(core.initial(5)))
    end = it.end(state, messages[-1], ended=ENDED if where == "end" else False)
    (loss + end).backward()
    it.zero_grad()
    first, _ = _grad(core, it, state, ended=ENDED if where == "begin" else False)
    dims = batch_dims(core, state)
    rows = [e.movedim(d, 0).flatten(1) for e, d in zip(errors(first), dims, strict=True)]
    target = torch.cat(rows, dim=1) * 5
    assert target[ENDED].any()  # they went on, in the next episode; that is not M's business
    target[ENDED] = 0
    kept = messages[-1].detach()
    loss = it.feedback.loss(kept, target)
    expected = torch.autograd.grad(loss, list(it.feedback.parameters()))
    assert_close([p.grad for p in it.feedback.parameters()], list(expected))


@every
def test_no_error_comes_back_to_rows_that_ended_with_the_chunk(kind):
    core = CORES[kind]().double()
    it = bridge(core, scale=1.0)
    state = it.begin(core.initial(5))
    dims = batch_dims(core, state)
    it.end(state, torch.randn(5, UNITS).double(), ended=ENDED).backward()
    for error, dim in zip(errors(state), dims, strict=True):
        grad = error.movedim(dim, 0).flatten(1)
        assert torch.equal(grad.any(dim=1), ~ENDED)


@every
@pytest.mark.parametrize("pending", [False, True])
@pytest.mark.parametrize("ended", [ENDED, True], ids=["some", "all"])
def test_rows_that_ended_start_from_a_fresh_state(kind, pending, ended):
    core = CORES[kind]().double()
    it = bridge(core)
    state = with_floating(core.initial(5), [torch.randn_like(t) for t in floating(core.initial(5))])
    dims = batch_dims(core, state)
    if pending:
        _, state = _grad(core, it, state)
    fresh = with_floating(state, [torch.randn_like(t).requires_grad_() for t in floating(state)])
    first, _ = _grad(core, it, state, ended=ended, fresh=fresh)
    mask = ENDED if ended is not True else torch.ones(5, dtype=torch.bool)
    for new, old, start, dim in zip(
        floating(first), floating(state), floating(fresh), dims, strict=True
    ):
        new, old, start = (t.movedim(dim, 0) for t in (new, old, start))
        assert torch.equal(new[mask], start[mask])
        assert torch.equal(new[~mask], old[~mask])
    # a learned initial state gets the error of its rows and no other
    for error, found, dim in zip(errors(first), errors(fresh), dims, strict=True):
        grad = found.movedim(dim, 0)
        assert torch.equal(grad[mask], error.movedim(dim, 0)[mask])
        assert not grad[~mask].any()
    if pending and ended is True:
        assert it.explained["boundary"].last[1] == 0  # nothing depends on the old state


def test_a_fresh_state_may_be_a_number_or_broadcast():
    core = CORES["LSTM, two layers"]().double()
    it = bridge(core)
    state = core.initial(5)
    state = (state[0] + 3, state[1] + 3)
    h, c = it.begin(state, ended=ENDED, fresh=0)
    assert not h[:, ENDED].any()
    assert (c[:, ~ENDED] == 3).all()
    it.reset()
    learned = nn.Parameter(torch.ones(2, 1, UNITS).double())
    h, c = it.begin(state, ended=ENDED, fresh=(learned, learned * 2))
    assert (c[:, ENDED] == 2).all()
    (h.sum() + c.sum()).backward()
    assert_close(learned.grad, torch.full_like(learned, 3.0 * 2))


def test_a_fresh_nest_is_matched_by_its_keys_and_counters_start_anew():
    it = sg.RecurrentInterface(Linear(UNITS, out_features=2 * UNITS))
    ones = torch.ones(5, UNITS)
    state = {"h": ones, "c": 2 * ones, "t": torch.full((5,), 7), "clock": torch.tensor(3)}
    fresh = {
        "clock": torch.tensor(0),
        "t": torch.zeros(1, dtype=torch.long),
        "c": torch.full((1, UNITS), -2.0),
        "h": torch.full((1, UNITS), -1.0),
    }
    begun = it.begin(state, ended=ENDED, fresh=fresh)
    for key, old, new in (("h", 1, -1), ("c", 2, -2), ("t", 7, 0)):
        rows = begun[key].reshape(5, -1)[:, 0]
        assert torch.equal(rows, torch.where(ENDED, new, old).to(rows))
    assert begun["clock"] == 3  # it is no row's
    it.reset()
    begun = it.begin(state, ended=ENDED, fresh=-1)  # a number: no counter is meant
    assert torch.equal(begun["t"], state["t"])
    assert (begun["c"][ENDED] == -1).all()


def test_a_counter_beside_a_state_whose_batch_comes_second():
    it = sg.RecurrentInterface(Linear(UNITS), batch_dim=1)
    state = (torch.ones(1, 5, UNITS), torch.full((5,), 7), torch.full((2, 5, 1), 7))
    _, count, more = it.begin(state, ended=ENDED, fresh=tuple(0 * part for part in state))
    assert torch.equal(count == 0, ENDED)
    assert torch.equal(more[:, :, 0] == 0, ENDED.expand(2, 5))


def test_the_loop_may_write_its_mask_again_before_the_backward_pass():
    core = CORES["GRUCell"]().double()
    found = []
    for rewrites in (False, True):
        torch.manual_seed(0)
        it = bridge(core)
        start = nn.Parameter(torch.ones(1, UNITS).double())
        state = core.initial(5)
        for _ in range(2):
            ended = ENDED.clone()
            xs, ys = stream(2, 5)
            first = it.begin(state, ended=ended, fresh=start)
            loss, state, messages, _ = unroll(core, xs, ys, first)
            loss = loss + it.end(state, messages[-1], ended=ended)
            if rewrites:
                ended.zero_()
            loss.backward()
        found.append([p.grad for p in (*it.parameters(), start)])
    assert_close(*found)


def test_evaluation_refreshes_rows_as_well():
    core = CORES["LSTM"]().double()
    it = bridge(core).eval()
    state = (torch.ones(1, 5, UNITS).double(), torch.ones(1, 5, UNITS).double())
    h, _ = it.begin(state, ended=ENDED, fresh=0)
    assert torch.equal(h[0, :, 0], (~ENDED).double())


def test_reset_forgets_what_was_predicted():
    core = CORES["GRUCell"]().double()
    it = bridge(core, auxiliary=awake(Linear(UNITS).double()))
    state = core.initial(5)
    for _ in range(2):
        it.zero_grad()
        _, state = _grad(core, it, state)
        it.reset()
        assert not any(g.any() for g in gradients(it).values())
    it.begin(core.initial(3))  # an open chunk, of another batch
    it.reset()
    it.begin(core.initial(4))
