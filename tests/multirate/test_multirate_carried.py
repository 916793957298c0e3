"""What a graph carries goes where the graph goes."""

import copy
import io
import pickle

import pytest
import torch
from torch.testing import assert_close

import synthgrad as sg
from synthgrad._nest import every
from synthgrad.errors import ArgumentError, LockingError
from tests.multirate.parts import Cell, adam, batch, interface, mean_square


def _graph(names="abc", unroll=1):
    torch.manual_seed(0)
    a, b, c = names
    nodes = {
        a: sg.Node(Cell(), ["x"], period=2, unroll=unroll),
        b: sg.Node(Cell(), [a], interfaces={a: interface()}),
        c: sg.Node(Cell(), [b], interfaces={b: interface()}),
    }
    return sg.MultiRate(nodes, ["x"], adam)


def _run(graph, ticks, dtype=torch.float64):
    losses = dict.fromkeys(graph.nodes, mean_square)
    for _ in range(ticks):
        torch.manual_seed(graph.time)
        found = graph.tick({"x": batch().to(dtype)}, losses)
        assert all(loss.dtype == dtype for loss in found.values())


def _carried(graph):
    """States, messages and what has come back for them."""
    extra = graph.carried_state()
    edges = [post for edge in extra["edges"].values() for post in edge["posts"]]
    return [*every(extra["states"]), *every(edges)]


def _assert_same(graph, other):
    assert_close(graph.carried_state(), other.carried_state(), rtol=0, atol=0)
    for ours, theirs in zip(graph.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_state_of_other_nodes_is_refused_and_nothing_restored():
    trained, other = _graph(), _graph("cde")
    _run(trained, 3)
    _run(other, 2)
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(
        ArgumentError, match=r"states for \['a', 'b', 'c'\], expected .* \['c', 'd', 'e'\]"
    ):
        other.load_state_dict(trained.state_dict())
    assert_close(dict(other.state_dict()), dict(before), rtol=0, atol=0)
    nodes = {name: sg.Node(Cell(), ["x"]) for name in "abc"}
    with pytest.raises(ArgumentError, match=r"the state has edges for \['a -> b', 'b -> c'\]"):
        sg.MultiRate(nodes, ["x"], adam).load_state_dict(trained.state_dict())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_takes_the_precision_of_the_graph(dtype):
    graph, restored = _graph(), _graph().to(dtype)
    _run(graph, 3)
    restored.load_state_dict(copy.deepcopy(graph.state_dict()))
    graph.to(dtype)
    for converted in (graph, restored):
        assert len(_carried(converted)) > 5  # states, messages, and an error that has come back
        assert all(t.dtype == dtype for t in _carried(converted))
        _run(converted, 3, dtype)
    _assert_same(graph, restored)


def test_it_goes_to_the_device_of_the_graph():
    graph = _graph()
    _run(graph, 3)
    elsewhere = {
        name: sg.Node(node.module.to("meta"), node.inputs, node.period, 1, node.interfaces)
        for name, node in _graph().nodes.items()
    }
    restored = sg.MultiRate(elsewhere, ["x"], adam)
    restored.set_extra_state(graph.get_extra_state())
    for moved in (restored, graph.to("meta")):
        assert all(t.device.type == "meta" for t in _carried(moved))


def test_what_is_no_floating_tensor_or_of_a_precision_of_its_own_stays_so():
    class Counting(Cell):
        def forward(self, *inputs_and_state):
            x, state = inputs_and_state
            h, ticks, small = state or (None, torch.tensor(0), torch.ones(1, dtype=torch.bfloat16))
            h = super().forward(x, h).state
            return sg.Ticked(h, None, (h, ticks + 1, small))

    graph, restored = (sg.MultiRate({"a": sg.Node(Counting(), ["x"])}, ["x"], adam) for _ in "ab")
    graph.tick({"x": batch()}, {"a": mean_square})
    restored.float().load_state_dict(graph.state_dict())
    kinds = [t.dtype for t in _carried(restored)]
    assert kinds == [torch.float32, torch.int64, torch.bfloat16]


def test_a_saved_file_needs_no_trust():
    graph, restored = _graph(), _graph()
    _run(graph, 3)
    file = io.BytesIO()
    torch.save(graph.state_dict(), file)
    file.seek(0)
    restored.load_state_dict(torch.load(file, weights_only=True))
    for resumed in (graph, restored):
        _run(resumed, 3)
    _assert_same(graph, restored)


def test_a_copy_goes_on_as_the_original_does():
    graph = _graph()
    _run(graph, 3)
    copies = copy.deepcopy(graph), pickle.loads(pickle.dumps(graph))
    for resumed in (graph, *copies):
        _run(resumed, 3)
    for other in copies:
        _assert_same(graph, other)


@pytest.mark.parametrize(
    ("act", "what"),
    [(copy.deepcopy, "copied"), (lambda graph: graph.float(), "moved or converted")],
    ids=["copy", "convert"],
)
def test_in_the_middle_of_an_unroll_it_is_refused(act, what):
    graph = _graph(unroll=2)
    _run(graph, 2)
    with pytest.raises(
        LockingError, match=rf"\['a'\] are in the .* at time 2, .* cannot be {what}"
    ):
        act(graph)
    _run(graph, 2)
    assert graph.at_rest
