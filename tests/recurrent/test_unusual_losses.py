"""Losses that are scaled, switched off, or not finite; what is remembered stays sound."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import synthgrad as sg
from synthgrad.feedback import Feedback, Linear, Stale
from tests.recurrent.cores import CORES, UNITS, awake, bridge, gradients, stream, unroll


class _Own(Feedback):
    """With a loss of its own."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Linear(UNITS, UNITS)

    def forward(self, h, context=None):
        return self.weight(h)

    def loss(self, h, target, context=None):
        return nn.functional.smooth_l1_loss(self(h), target)


MODELS = [_Own, lambda: awake(Linear(UNITS)), lambda: Stale(0.5)]


def _chunk(core, it, state, factor=1.0):
    loss, state, messages, _ = unroll(core, *stream(2, 4), it.begin(state))
    ((loss + it.end(state, messages[-1])) * factor).backward()
    return state


def _bridged(model):
    """One with two chunks behind it, so that something is remembered."""
    core = CORES["GRUCell"]().double()
    it = bridge(core, model.double(), check_finite=False)
    state = core.initial(4)
    for _ in range(2):
        state = _chunk(core, it, state)
    core.zero_grad()
    it.zero_grad()
    return core, it, state


@pytest.mark.parametrize("model", MODELS)
def test_a_chunk_that_counts_for_nothing_changes_nothing(model):
    core, it, state = _bridged(model())
    remembered = [buffer.clone() for buffer in it.buffers()]
    total = it.explained["boundary"].total.clone()
    _chunk(core, it, state, 0.0)
    assert not any(g.any() for g in gradients(core, it).values())
    assert_close(list(it.buffers()), remembered)
    assert torch.equal(it.explained["boundary"].total, total)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("model", MODELS)
def test_what_is_not_finite_is_not_remembered(model, bad):
    core, it, state = _bridged(model())
    remembered = [buffer.clone() for buffer in it.buffers()]
    counted = it.explained["boundary"]
    mean = counted.mean.clone()
    state = _chunk(core, it, state, bad)
    assert not counted.now.isfinite()  # seen, and left out
    assert torch.equal(counted.mean, mean)
    assert_close(list(it.buffers()), remembered)
    it.zero_grad()
    _chunk(core, it, state.detach())
    assert all(g.isfinite().all() for g in gradients(it).values())
    assert counted.now.isfinite()


def test_stale_begins_with_its_first_finite_error():
    model = Stale(0.5)
    model.observe(torch.tensor([[math.nan, 1.0]]))
    assert torch.equal(model.average, torch.tensor([0.0, 0.5]))


@pytest.mark.parametrize("factor", [1 / 8, 1024.0])
def test_the_last_chunk_tells_its_factor_by_its_end(factor):
    core = CORES["GRUCell"]().double()
    it = bridge(core)
    chunks = [stream(2, 4) for _ in range(2)]
    found = []
    for times, ended in ((1.0, False), (factor, True)):
        core.zero_grad()
        it.zero_grad()
        it.reset()
        loss, state, messages, _ = unroll(core, *chunks[0], it.begin(core.initial(4)))
        ((loss + it.end(state, messages[-1])) * times).backward()
        loss, state, messages, _ = unroll(core, *chunks[1], it.begin(state))
        if ended:
            loss = loss + it.end(state, messages[-1], ended=True)
        (loss * times).backward()
        found.append({name: g / times for name, g in gradients(core, it).items()})
    assert_close(*found)


def test_a_loss_scaler_may_overflow():
    core = CORES["GRUCell"]()
    stale = Stale(0.5)
    it = sg.RecurrentInterface(stale, check_finite=False)
    optimizer = torch.optim.SGD(core.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    state = core.initial(4)
    for _ in range(20):
        loss, state, messages, _ = unroll(core, *stream(2, 4, torch.float32), it.begin(state))
        optimizer.zero_grad()
        scaler.scale(loss * 20 + it.end(state, messages[-1])).backward()
        scaler.step(optimizer)
        scaler.update()
        state = state.detach()
    assert 2.0**107 < scaler.get_scale() < 2.0**127  # it has skipped some steps and not all
    assert stale.average.isfinite().all()
    assert stale.average.any()
