"""The cell against its equations, with statistics of each step by itself."""

import torch
from torch.nn import functional as F
from torch.testing import assert_close

from synthgrad.lab.experiments.digit_counters import NormLSTMCell, StepNorm


def _cell(steps=3):
    cell = NormLSTMCell(5, 4, steps).double()
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.normal_()
    return cell


def _normalised(x, norm):
    centred = x - x.mean(dim=0)
    shift = 0 if norm.bias is None else norm.bias
    return centred / (x.var(dim=0, unbiased=False) + 1e-5).sqrt() * norm.weight + shift


def test_it_is_its_equations():
    cell, xs = _cell(), torch.randn(3, 6, 5).double()
    h = c = torch.zeros(6, 4).double()
    state = None
    for x in xs:
        gates = (
            _normalised(h @ cell.from_state.weight.T, cell.norm_state)
            + _normalised(x @ cell.from_input.weight.T, cell.norm_input)
            + cell.bias
        )
        f, i, o, g = gates.split(4, dim=1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * _normalised(c, cell.norm_cell).tanh()
        out, state = cell(x, state)
        assert_close(out, h)
    assert state is None  # so that the next sequence begins


def test_a_sequence_begins_anew_after_the_last_step():
    cell, xs = _cell(steps=2), torch.randn(2, 6, 5).double()
    first, state = cell(xs[0], None)
    _, state = cell(xs[1], state)
    again, _ = cell(xs[0], state)
    assert torch.equal(again, first)


def test_each_step_has_its_own_statistics_for_when_there_is_no_batch():
    norm = StepNorm(3, steps=2).double()
    parts = [torch.randn(200, 3).double() * scale + scale for scale in (1, 5)]
    for _ in range(200):
        for step, x in enumerate(parts):
            norm(x, step)
    trained = [norm(x, step) for step, x in enumerate(parts)]
    norm.eval()
    for step, x in enumerate(parts):
        assert_close(norm(x, step), trained[step], rtol=1e-2, atol=1e-2)
        assert_close(norm(x[:1], step), norm(x, step)[:1])
    assert not torch.allclose(norm(parts[1], 0), trained[1], rtol=0.1)


def test_it_starts_small_and_remembers():
    cell = NormLSTMCell(5, 4, 3)
    assert all(norm.weight.eq(0.1).all() for norm in (cell.norm_input, cell.norm_cell))
    assert cell.bias.tolist() == [1.0] * 4 + [0.0] * 12
    gate = cell.from_state.weight[:4]
    assert_close(gate @ gate.T, torch.eye(4))


def test_an_error_at_the_end_reaches_the_first_input():
    cell, x = _cell(), torch.randn(3, 6, 5).double().requires_grad_()
    _, state = cell(x[0], None)
    _, state = cell(x[1], state)
    h, _ = cell(x[2], state)
    F.cross_entropy(h, torch.arange(6) % 4).backward()
    assert x.grad is not None
    assert x.grad[0].abs().max() > 0
