"""Clocks, messages and updates of multi-rate graphs, and what they equal where they are simple."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

import synthgrad as sg
from synthgrad.errors import LockingError
from synthgrad.feedback import Feedback, Linear, Zero
from tests.multirate.parts import (
    Cell,
    Layer,
    adam,
    batch,
    gradients,
    interface,
    mean_square,
    still,
)


@given(seed=st.integers(0, 99))
def test_with_all_periods_1_it_is_the_plain_graph(seed):
    """A diamond: one sender to two, and both to one."""
    torch.manual_seed(seed)
    layers = {name: Layer() for name in "abcd"}
    joints = {key: interface(Linear(4).double()) for key in ("ab", "ac", "bd", "cd")}
    twins = copy.deepcopy((layers, joints))
    graph = sg.MultiRate(
        {
            "d": sg.Node(
                layers["d"], ["b", "c"], interfaces={"b": joints["bd"], "c": joints["cd"]}
            ),
            "b": sg.Node(layers["b"], ["a"], interfaces={"a": joints["ab"]}),
            "c": sg.Node(layers["c"], ["a"], interfaces={"a": joints["ac"]}),
            "a": sg.Node(layers["a"], ["x"]),
        },
        ["x"],
        still,
    )
    x = batch()
    losses = graph.tick({"x": x}, {"d": mean_square})
    plain, cut = twins
    h = plain["a"](x, None).message
    b = plain["b"](cut["ab"](h), None).message
    c = plain["c"](cut["ac"](h), None).message
    loss = mean_square(plain["d"](cut["bd"](b), cut["cd"](c), None).output)
    loss.backward()
    assert_close(losses["d"], loss.detach())
    for name in "abcd":
        assert_close(gradients(layers[name]), gradients(plain[name]))
    for key in joints:
        assert_close(gradients(joints[key]), gradients(cut[key]))


class _Exact(Feedback):
    """Knows the slow node, its loss, and the inputs it had before."""

    def __init__(self, slow, earlier):
        super().__init__()
        self.slow, self.earlier = (slow,), earlier

    def forward(self, h, context=None):
        with torch.enable_grad():
            leaf = h.detach().requires_grad_()
            state = None
            for message in self.earlier:
                state = self.slow[0](message, state).state
            loss = mean_square(self.slow[0](leaf, state).output)
            (delta,) = torch.autograd.grad(loss, leaf)
        return delta * len(h)


def test_an_exact_interface_gives_the_gradient_of_the_joint_graph():
    torch.manual_seed(0)
    fast, slow = Cell(), Cell()
    joint = copy.deepcopy((fast, slow))
    graph = sg.MultiRate(
        {
            "fast": sg.Node(fast, ["x"], unroll=3),
            "slow": sg.Node(
                slow, ["fast"], period=3, interfaces={"fast": sg.Interface(_Exact(joint[1], []))}
            ),
        },
        ["x"],
        still,
    )
    xs = [batch() for _ in range(3)]
    for x in xs:
        graph.tick({"x": x}, {"slow": mean_square})
    state = None
    for x in xs:
        state = joint[0](x, state).state
    mean_square(joint[1](state, None).output).backward()
    assert_close(gradients(fast), gradients(joint[0]))
    assert_close(gradients(slow), gradients(joint[1]))


def test_everybody_keeps_to_its_own_clock():
    last = Cell()
    nodes = {
        "a": sg.Node(Cell(), ["x"], unroll=2),
        "b": sg.Node(Cell(), ["a"], period=2, unroll=2, interfaces={"a": interface()}),
        "c": sg.Node(last, ["b"], period=1, interfaces={"b": interface()}),
    }
    graph = sg.MultiRate(nodes, ["x"], adam)
    losses = dict.fromkeys("abc", mean_square)
    found = [sorted(graph.tick({"x": batch()}, losses)) for _ in range(8)]
    # c waits for the first message of b.
    assert found == [["a"], ["a", "b", "c"], *[["a", "c"], ["a", "b", "c"]] * 3]
    assert graph.updates == {"a": 4, "b": 2, "c": 7}
    # c uses each message of b twice, but the first ones that it sees the same.
    seen = last.ticks
    assert all(torch.equal(seen[i], seen[i + 1]) for i in (0, 2, 4))
    assert not torch.equal(seen[1], seen[2])


def test_a_held_message_gets_the_sum_of_its_uses_errors():
    torch.manual_seed(0)
    slow, fast = Layer(), Layer()
    joint = interface(Linear(4).double())
    model = copy.deepcopy(joint)
    graph = sg.MultiRate(
        {
            "slow": sg.Node(slow, ["x"], period=2),
            "fast": sg.Node(fast, ["slow"], interfaces={"slow": joint}),
        },
        ["x"],
        still,
    )
    xs = [batch() for _ in range(4)]
    for x in xs:
        graph.tick({"x": x}, {"fast": mean_square})
    # The message of time 2 was used at 2 and 3, and replaced at 4.
    h = slow(xs[1], None).message.detach()
    leaf = h.clone().requires_grad_()
    mean_square(fast(leaf, None).output).backward()
    assert leaf.grad is not None
    loss = model.feedback.loss(h, 2 * leaf.grad * len(h))
    assert loss is not None
    loss.backward()
    assert_close(gradients(joint), gradients(model))


def test_a_resumed_run_goes_on_bit_for_bit():
    def make():
        torch.manual_seed(3)
        nodes = {
            "a": sg.Node(Cell(), ["x"], unroll=2),
            "b": sg.Node(Cell(), ["a"], period=2, interfaces={"a": interface()}),
            "c": sg.Node(Cell(), ["b"], interfaces={"b": interface()}),
        }
        return sg.MultiRate(nodes, ["x"], adam)

    def run(graph, start, ticks):
        for time in range(start, start + ticks):
            torch.manual_seed(time)
            graph.tick({"x": batch()}, dict.fromkeys("abc", mean_square))

    whole, first, second = make(), make(), make()
    run(whole, 0, 10)
    run(first, 0, 4)
    assert first.at_rest
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    run(second, 4, 6)
    assert second.updates == whole.updates
    ours, theirs = whole.state_dict(), second.state_dict()
    assert_close(whole.carried_state(), second.carried_state(), rtol=0, atol=0)
    assert_close(
        {k: v for k, v in ours.items() if "extra" not in k},
        {k: v for k, v in theirs.items() if "extra" not in k},
        rtol=0,
        atol=0,
    )


def test_in_the_middle_of_an_unroll_nothing_can_be_saved():
    graph = sg.MultiRate({"a": sg.Node(Cell(), ["x"], unroll=2)}, ["x"], adam)
    graph.tick({"x": batch()}, {"a": mean_square})
    with pytest.raises(LockingError, match=r"\['a'\] are in the middle of their unroll at time 1"):
        graph.state_dict()


def test_the_fast_learn_from_the_slow():
    """The slow node alone knows what is asked for; only its error tells the fast one."""
    torch.manual_seed(0)

    def last(feedback):
        torch.manual_seed(1)
        fast, slow = Layer(), Layer()
        graph = sg.MultiRate(
            {
                "fast": sg.Node(fast, ["x"]),
                "slow": sg.Node(slow, ["fast"], period=2, interfaces={"fast": interface(feedback)}),
            },
            ["x"],
            adam,
        )
        for p in slow.parameters():
            p.requires_grad_(False)
        recent = []
        for time in range(600):
            x = batch()
            target = 0.1 * x.roll(1, 1)
            found = graph.tick({"x": x}, {"slow": lambda o, y=target: (o - y).square().mean()})
            recent += [found["slow"]] if time >= 500 and "slow" in found else []
        return torch.stack(recent).mean()

    assert last(Linear(4).double()) < 0.5 * last(Zero())


def test_every_graph_is_at_rest_at_common_multiples():
    """The last node begins late, at a time in the middle of its unroll."""
    nodes = {
        "a": sg.Node(Cell(), ["x"], unroll=2),
        "b": sg.Node(Cell(), ["a"], period=2, interfaces={"a": interface()}),
        "c": sg.Node(Cell(), ["b"], unroll=4, interfaces={"b": interface()}),
    }
    graph = sg.MultiRate(nodes, ["x"], adam)
    rest = []
    for time in range(1, 13):
        graph.tick({"x": batch()}, dict.fromkeys("abc", mean_square))
        rest += [time] if graph.at_rest else []
    assert rest == [4, 8, 12]
    assert graph.updates == {"a": 6, "b": 6, "c": 3}
