"""What nodes receive, and what comes to a tick from outside."""

import copy

import pytest
import torch
from torch.testing import assert_close

import synthgrad as sg
from synthgrad.errors import ShapeError
from synthgrad.feedback import Linear
from tests.multirate.parts import Layer, adam, batch, interface, mean_square


class _InPlace(Layer):
    """Works on what it receives."""

    def forward(self, *inputs_and_state):
        for h in inputs_and_state[:-1]:
            h.mul_(2).relu_()
        return super().forward(*inputs_and_state)


class _OutOfPlace(Layer):
    def forward(self, *inputs_and_state):
        *inputs, state = inputs_and_state
        return super().forward(*[(2 * h).relu() for h in inputs], state)


@pytest.mark.parametrize("joined", [True, False], ids=["interface", "none"])
def test_a_receiver_may_work_in_place(joined):
    """Neither others, nor later ticks, nor the user notice."""

    def run(kind):
        torch.manual_seed(0)
        receivers = {
            name: sg.Node(kind(), ["a", "x"], interfaces={"a": interface()} if joined else {})
            for name in "bc"
        }
        nodes = {"a": sg.Node(Layer(), ["x"], period=3), **receivers}
        graph = sg.MultiRate(nodes, ["x"], adam)
        for _ in range(8):
            x = batch()
            given = x.clone()
            graph.tick({"x": x}, {"b": mean_square, "c": mean_square})
            assert torch.equal(x, given)
        return dict(graph.state_dict())

    assert_close(run(_InPlace), run(_OutOfPlace), rtol=0, atol=0)


def test_from_a_message_that_nobody_receives_nobody_learns():
    """The receiver also waits for a slow node, which has not ticked yet."""
    torch.manual_seed(0)
    sender = Layer()
    joint = interface()
    nodes = {
        "a": sg.Node(sender, ["x"]),
        "slow": sg.Node(Layer(), ["x"], period=50),
        "b": sg.Node(Layer(), ["a", "slow"], interfaces={"a": joint}),
    }
    graph = sg.MultiRate(nodes, ["x"], adam)
    predicted = []
    joint.feedback.register_forward_hook(lambda *_: predicted.append(graph.time))
    before = copy.deepcopy(sender.state_dict())
    for _ in range(49):
        graph.tick({"x": batch()}, {"b": mean_square})
    assert_close(sender.state_dict(), before, rtol=0, atol=0)
    assert not predicted
    assert not graph._edges["a", "b"]._waiting
    graph.tick({"x": batch()}, {"b": mean_square})
    assert predicted == [50, 50]  # for the sender, and to be fitted
    assert not torch.equal(sender.linear.weight, before["linear.weight"])


def test_of_losses_per_example_the_mean_is_taken():
    graphs = []
    for loss in (mean_square, lambda output: output.square().mean(dim=1)):
        torch.manual_seed(0)
        graphs.append(sg.MultiRate({"a": sg.Node(Layer(), ["x"])}, ["x"], adam))
        found = graphs[-1].tick({"x": batch()}, {"a": loss})
        assert found["a"].shape == ()
    assert_close(dict(graphs[0].state_dict()), dict(graphs[1].state_dict()))
    with pytest.raises(ShapeError, match=r"one loss per example, got .* of shape \(6, 4\)"):
        graphs[0].tick({"x": batch()}, {"a": torch.square})


def test_the_context_around_a_tick_holds_unless_it_has_its_own():
    def run(around, own):
        torch.manual_seed(0)
        joint = interface(Linear(4, context=3).double())
        nodes = {
            "a": sg.Node(Layer(), ["x"]),
            "b": sg.Node(Layer(), ["a"], interfaces={"a": joint}),
        }
        graph = sg.MultiRate(nodes, ["x"], adam)
        for _ in range(3):
            with sg.context(around):
                graph.tick({"x": batch()}, {"b": mean_square}, own)
        return dict(graph.state_dict())

    y, z = torch.arange(6) % 3, torch.zeros(6, dtype=torch.int64)
    given = run(None, y)
    for found in (run(y, None), run(z, y)):
        assert_close(found, given, rtol=0, atol=0)
    assert not torch.equal(
        given["members.0.linear.weight"], run(None, z)["members.0.linear.weight"]
    )
