"""In eval mode or without grad a graph only runs."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import synthgrad as sg
from synthgrad._extra_state import unpacked
from synthgrad.errors import LockingError
from synthgrad.feedback import Zero
from tests.multirate.parts import Cell, adam, batch, interface, mean_square

LOSSES = {"a": mean_square, "b": mean_square, "c": mean_square}


class _Noisy(Cell):
    """Tells in its output whether it is in training."""

    def forward(self, *inputs_and_state):
        h, message, state = super().forward(*inputs_and_state)
        return sg.Ticked(nn.functional.dropout(h, training=self.training), message, state)


def _graph(unroll=2):
    torch.manual_seed(0)
    nodes = {
        "a": sg.Node(_Noisy(), ["x"], unroll=unroll),
        "b": sg.Node(Cell(), ["a"], period=2, interfaces={"a": interface()}),
        "c": sg.Node(Cell(), ["b"], interfaces={"b": interface()}),
    }
    return sg.MultiRate(nodes, ["x"], adam)


def _train(graph, ticks):
    for _ in range(ticks):
        torch.manual_seed(graph.time)
        graph.tick({"x": batch()}, LOSSES)


def test_it_says_what_the_modules_say():
    graph = _graph()
    a, b, c = (copy.deepcopy(graph.nodes[name].module).eval() for name in "abc")
    h = heard = k = None
    graph.eval()
    for time in range(1, 7):
        x = batch()
        found = graph.tick({"x": x}, LOSSES)
        said, h, _ = a(x, h)
        expected = {"a": mean_square(said)}
        if time % 2 == 0:
            heard, _, _ = b(h, heard)
            expected["b"] = mean_square(heard)
        if heard is not None:
            k, _, _ = c(heard, k)
            expected["c"] = mean_square(k)
        assert_close(found, {name: loss.detach() for name, loss in expected.items()})
    assert graph.updates == dict.fromkeys("abc", 0)


@pytest.mark.parametrize("how", ["eval", "no_grad", "inference_mode"])
def test_it_changes_nothing_that_is_learned(how):
    """To the last bit, feedback models and optimisers among it, and training goes on after it."""
    graph, whole = _graph(), _graph()
    for trained in (graph, whole):
        _train(trained, 4)
    kept = copy.deepcopy(graph.state_dict())
    graph.train(how != "eval")
    with getattr(torch, how)() if how != "eval" else torch.enable_grad():
        for _ in range(3):
            graph.tick({"x": batch()}, LOSSES)
    graph.train()
    assert graph.at_rest
    assert graph.time == 7
    now = copy.deepcopy(graph.state_dict())
    _train(graph, 3)  # on the states that came of it
    assert graph.updates == {"a": 4, "b": 4, "c": 6}
    graph.load_state_dict(copy.deepcopy(now))
    for state in (kept, now):
        state["_extra_state"] = unpacked(state["_extra_state"])
        for part in ("states", "edges", "time"):
            del state["_extra_state"][part]
    assert_close(dict(now), dict(kept), rtol=0, atol=0)
    graph.load_state_dict(copy.deepcopy(whole.state_dict()))
    for trained in (graph, whole):
        _train(trained, 4)
    assert_close(graph.carried_state(), whole.carried_state(), rtol=0, atol=0)
    assert_close(dict(graph.named_parameters()), dict(whole.named_parameters()), rtol=0, atol=0)


def test_feedback_models_are_not_asked():
    class Asked(Zero):
        def forward(self, h, context=None):
            raise AssertionError

    nodes = {
        "a": sg.Node(Cell(), ["x"]),
        "b": sg.Node(Cell(), ["a"], interfaces={"a": sg.Interface(Asked())}),
    }
    graph = sg.MultiRate(nodes, ["x"], adam).eval()
    assert graph.tick({"x": batch()}, {"b": mean_square}).keys() == {"b"}


def test_a_message_held_since_training_still_gets_its_error(monkeypatch):
    """Two uses in training, and one in eval mode, which does not count."""
    torch.manual_seed(0)
    joint = interface()
    nodes = {
        "slow": sg.Node(Cell(), ["x"], period=4),
        "fast": sg.Node(Cell(), ["slow"], interfaces={"slow": joint}),
    }
    graph = sg.MultiRate(nodes, ["x"], adam)
    seen = []
    monkeypatch.setattr(joint, "check", seen.append)
    for training in (True, True, True, True, True, False, False, False, True):
        graph.train(training)
        graph.tick({"x": batch()}, {"fast": mean_square})
    # Those of times 4 and 5 as they came; that of 9 belongs to a message sent in eval mode.
    first, both, fitted = seen
    assert not torch.equal(first, both)
    assert torch.equal(both, fitted)


def test_in_the_middle_of_an_unroll_it_is_refused():
    graph = _graph(unroll=3)
    _train(graph, 1)
    state = graph._unrolls["a"].state
    with pytest.raises(
        LockingError, match=r"cannot be evaluated; expected a time .* multiples of 6"
    ):
        graph.eval().tick({"x": batch()})
    assert graph.time == 1
    assert graph._unrolls["a"].state is state
    graph.reset()
    graph.tick({"x": batch()})


def test_a_tick_that_fails_drops_no_error_that_is_awaited():
    graph, whole = _graph(), _graph()
    for trained in (graph, whole):
        _train(trained, 4)

    def fails(output):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        graph.eval().tick({"x": batch()}, {"c": fails})
    graph.train()
    for trained in (graph, whole):
        _train(trained, 4)
    assert_close(graph.carried_state(), whole.carried_state(), rtol=0, atol=0)
    assert_close(dict(graph.named_parameters()), dict(whole.named_parameters()), rtol=0, atol=0)


def test_other_streams_are_evaluated_on_in_between():
    """As docs/multirate.md does it."""
    graph, whole = _graph(), _graph()
    for trained in (graph, whole):
        _train(trained, 4)
    kept = graph.state_dict()
    graph.eval()
    graph.reset()
    for _ in range(3):
        graph.tick({"x": torch.randn(2, 4).double()}, LOSSES)  # fewer rows
    graph.train()
    graph.load_state_dict(kept)
    for trained in (graph, whole):
        _train(trained, 4)
    assert_close(graph.carried_state(), whole.carried_state(), rtol=0, atol=0)
    assert_close(dict(graph.named_parameters()), dict(whole.named_parameters()), rtol=0, atol=0)
