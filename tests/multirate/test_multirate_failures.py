"""A tick that fails did not happen, and training goes on."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import synthgrad as sg
from synthgrad.errors import LockingError, NonFiniteError
from synthgrad.feedback import MLP
from tests.multirate.parts import Cell, Layer, adam, batch, interface, mean_square


class Flaky(Cell):
    """Fails while it is told to, after its state has gone on."""

    fails = False

    def forward(self, *inputs_and_state):
        result = super().forward(*inputs_and_state)
        if self.fails:
            raise InterruptedError
        return result


def _model():
    """Without batch normalisation, whose statistics remember what failed later."""
    return interface(MLP(4, (5,), batch_norm=False).double())


def _graph(unroll=1):
    torch.manual_seed(0)
    nodes = {
        "a": sg.Node(Flaky(), ["x"], unroll=unroll),
        "b": sg.Node(Flaky(), ["a"], period=2, interfaces={"a": _model()}),
    }
    return sg.MultiRate(nodes, ["x"], adam)


def _interrupted(output):
    raise KeyboardInterrupt


LOSSES = {"a": mean_square, "b": mean_square}


def _fail(graph, how, x):
    """Both kinds of exception, from a module and from a loss."""
    before = graph.time
    if how in ("a", "b"):
        graph.nodes[how].module.fails = True
        with pytest.raises(InterruptedError):
            graph.tick({"x": x}, LOSSES)
        graph.nodes[how].module.fails = False
    else:
        with pytest.raises(KeyboardInterrupt):
            graph.tick({"x": x}, LOSSES | {how[-1]: _interrupted})
    assert graph.time == before


@pytest.mark.parametrize("how", ["a", "b", "loss of a", "loss of b"])
def test_repeated_it_gives_what_an_unbroken_run_gives(how):
    whole, broken = _graph(), _graph()
    for time in range(1, 9):
        x = batch()
        whole.tick({"x": x}, LOSSES)
        if time in (2, 6):
            _fail(broken, how, x)
        broken.tick({"x": x}, LOSSES)
    assert broken.updates == whole.updates == {"a": 8, "b": 4}
    assert_close(dict(broken.state_dict()), dict(whole.state_dict()), rtol=0, atol=0)


def test_what_was_open_is_dropped_and_states_are_kept():
    graph = _graph(unroll=4)
    for _ in range(5):
        graph.tick({"x": batch()}, LOSSES)
    state, held = graph._unrolls["a"].state, graph._edges["a", "b"].held
    assert not graph.at_rest
    _fail(graph, "b", batch())
    assert graph.at_rest
    assert graph._edges["a", "b"].held is held
    kept = graph.carried_state()["states"]["a"]
    assert torch.equal(kept, state)
    assert not kept.requires_grad
    for _ in range(7):
        graph.tick({"x": batch()}, LOSSES)
    assert graph.time == 12
    assert graph.updates == {"a": 3, "b": 6}


def test_a_wrong_argument_drops_nothing():
    graph = _graph(unroll=2)
    graph.tick({"x": batch()}, LOSSES)
    with pytest.raises(ValueError, match="no input for the streams"):
        graph.tick({})
    assert not graph.at_rest
    assert graph.time == 1


@pytest.mark.parametrize("period", [1, 3], ids=["of the same rate", "to a faster node"])
def test_an_error_that_is_not_finite_changes_nobody(period):
    """Two receivers, at one of which the gradient is NaN although its loss is not."""
    nodes = {
        "a": sg.Node(Layer(), ["x"], period),
        **{name: sg.Node(Layer(), ["a"], interfaces={"a": _model()}) for name in "bc"},
    }
    graph = sg.MultiRate(nodes, ["x"], adam)
    for _ in range(6):
        graph.tick({"x": batch()}, {"b": mean_square, "c": mean_square})
    before = copy.deepcopy(graph.state_dict())
    steep = {"b": mean_square, "c": lambda o: (o - o.detach()).abs().sqrt().sum()}
    with pytest.raises(NonFiniteError, match="interface 'it': the error that came back"):
        graph.tick({"x": batch()}, steep)
    after = graph.state_dict()
    for key in before:
        if "extra_state" not in key:
            assert torch.equal(after[key], before[key]), key
    updates = dict(graph.updates)
    graph.tick({"x": batch()}, {"b": mean_square, "c": mean_square})
    assert graph.updates["c"] == updates["c"] + 1
    assert all(p.isfinite().all() for p in graph.parameters())


class _Opaque:
    def __init__(self, h):
        self.h = h


def test_a_state_that_may_hide_tensors_is_refused_by_name():
    class Hiding(nn.Module):
        def forward(self, x, state):
            return sg.Ticked(None, None, {"h": (x, _Opaque(x))})

    graph = sg.MultiRate({"a": sg.Node(Hiding(), ["x"])}, ["x"], adam)
    with pytest.raises(LockingError, match=r"state of node 'a' holds a _Opaque; expected a tensor"):
        graph.tick({"x": batch()})
