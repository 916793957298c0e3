"""What is no graph, or no tick of one, is refused by name."""

import pytest
import torch
from torch import nn

import synthgrad as sg
from synthgrad.errors import ArgumentError, LockingError, ShapeError
from synthgrad.feedback import Critic, Linear, Stale
from tests.multirate.parts import Layer, adam, batch, interface, mean_square


def _two(**second):
    return {
        "a": sg.Node(Layer(), ["x"]),
        "b": sg.Node(**{"module": Layer(), "inputs": ["a"], **second}),
    }


@pytest.mark.parametrize(
    ("nodes", "says"),
    [
        ({"a": sg.Node(Layer(), ["b"]), "b": sg.Node(Layer(), ["a"])}, "cycle: 'a' -> 'b' -> 'a'|"
         "cycle: 'b' -> 'a' -> 'b'"),
        (
            {"a": sg.Node(Layer(), ["x"], period=2), "b": sg.Node(Layer(), ["a"], period=3)},
            "node 'b' has period 3 and receives 'a', which has period 2; expected one to divide",
        ),
        (_two(inputs=["y"]), "receives 'y', which is neither a node nor a stream; there are 'a'"),
        (_two(period=0), "period of node 'b' must be an integer of at least 1, got 0"),
        (_two(unroll=-1), "unroll of node 'b' must be an integer of at least 1, got -1"),
        (_two(interfaces={"x": interface()}), "'b' has an interface for 'x', which is no node"),
        ({"x": sg.Node(Layer(), ["x"])}, "'x' is both a node and a stream"),
    ],
    ids=["cycle", "periods", "unknown", "period", "unroll", "interface", "stream"],
)  # fmt: skip
def test_what_is_no_graph_is_refused_by_name(nodes, says):
    with pytest.raises(ArgumentError, match=says):
        sg.MultiRate(nodes, ["x"], adam)


def test_what_is_shared_is_refused():
    layer = Layer()
    nodes = {"a": sg.Node(layer, ["x"]), "b": sg.Node(layer, ["x"])}
    with pytest.raises(ArgumentError, match="'a' and 'b' share a parameter"):
        sg.MultiRate(nodes, ["x"], adam)


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("second", "says"),
    [
        (
            {"interfaces": {"a": Linear(4)}},
            "'b' has a Linear for 'a'; expected an interface, such as synthgrad.Interface",
        ),
        (
            {"interfaces": {"a": sg.Interface(Critic(nn.Identity()))}},
            "'b' has a Critic for 'a', which is fitted to the loss; expected .* to the error",
        ),
        (
            {"inputs": "a"},
            r"inputs of node 'b' must be a list of names, got 'a'; expected \['a'\]",
        ),
        (
            {"module": torch.tanh},
            "module of node 'b' must be a torch.nn.Module, got an object of type builtin_function",
        ),
    ],
    ids=["no interface", "critic", "text", "function"],
)
def test_a_node_of_the_wrong_parts_is_refused_by_name(second, says):
    with pytest.raises(ArgumentError, match=says):
        sg.MultiRate(_two(**second), ["x"], adam)


@pytest.mark.parametrize("twice", [True, False], ids=["interface", "model"])
def test_what_remembers_is_not_shared_either(twice):
    stale = Stale(0.5)
    one = sg.Interface(stale)
    other = one if twice else sg.Interface(stale)
    nodes = {
        "a": sg.Node(Layer(), ["x"]),
        "b": sg.Node(Layer(), ["a"], interfaces={"a": one}),
        "c": sg.Node(Layer(), ["a"], interfaces={"a": other}),
    }
    with pytest.raises(ArgumentError, match="'a -> b' and 'a -> c' share an interface or its"):
        sg.MultiRate(nodes, ["x"], adam)


@pytest.mark.usefixtures("as_installed")
def test_wrong_arguments_are_refused():
    with pytest.raises(ArgumentError, match=r"streams must be a list of names, got 'digits'"):
        sg.MultiRate({"a": sg.Node(Layer(), ["digits"])}, "digits", adam)
    for scale in (float("nan"), float("inf"), "3"):
        with pytest.raises(ArgumentError, match=f"scale must be a finite number, got {scale!r}"):
            sg.MultiRate(_two(), ["x"], adam, scale=scale)  # type: ignore[arg-type]


class Wrong(nn.Module):
    """Returns what it was made with."""

    def __init__(self, result):
        super().__init__()
        self.result = result

    def forward(self, x, state):
        return self.result


def test_wrong_ticks_are_refused():
    graph = sg.MultiRate(_two(), ["x"], adam)
    with pytest.raises(ArgumentError, match=r"no input for the streams \['x'\], got \['z'\]"):
        graph.tick({"z": batch()})
    with pytest.raises(ArgumentError, match=r"losses for \['q'\], the nodes are \['a', 'b'\]"):
        graph.tick({"x": batch()}, {"q": mean_square})

    graph = sg.MultiRate({"a": sg.Node(Wrong(3), ["x"])}, ["x"], adam)
    with pytest.raises(LockingError, match="node 'a' returned int, expected a Ticked"):
        graph.tick({"x": batch()})
    silent = Wrong(sg.Ticked(None, None))
    graph = sg.MultiRate({"a": sg.Node(silent, ["x"]), "b": sg.Node(Layer(), ["a"])}, ["x"], adam)
    with pytest.raises(LockingError, match="node 'a' sent no message, and 'b' receives one"):
        graph.tick({"x": batch()})


@pytest.mark.usefixtures("as_installed")
def test_a_message_that_is_no_tensor_is_refused():
    listed = Wrong(sg.Ticked(None, [1.0]))  # type: ignore[arg-type]
    graph = sg.MultiRate({"a": sg.Node(listed, ["x"]), "b": sg.Node(Layer(), ["a"])}, ["x"], adam)
    with pytest.raises(ShapeError, match="a message must be a tensor, got"):
        graph.tick({"x": batch()})
