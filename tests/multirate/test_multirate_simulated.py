"""Random graphs, against a simulation that knows from the start who ticks when."""

import copy
import random
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam
from torch.testing import assert_close

import synthgrad as sg
from synthgrad.feedback import MLP
from tests.multirate.parts import batch, interface, mean_square

TICKS, SCALE = 20, 3.0
own = partial(SGD, lr=0.05, momentum=0.9)
others = partial(Adam, lr=0.01)


class _Cell(nn.Module):
    """Learns its first state, too."""

    def __init__(self, inputs):
        super().__init__()
        self.read = nn.ModuleList(nn.Linear(4, 4) for _ in range(inputs))
        self.again, self.say = nn.Linear(4, 4), nn.Linear(4, 4)
        self.first = nn.Parameter(torch.randn(1, 4))
        self.double()

    def forward(self, *inputs_and_state):
        *inputs, h = inputs_and_state
        h = self.first.expand(6, 4) if h is None else h
        read = sum(layer(x) for layer, x in zip(self.read, inputs, strict=True))
        h = (read + self.again(h)).tanh()
        return sg.Ticked(h, self.say(h).tanh(), h)


class _Letter:
    """A message, its receiver's gradients, and whether it is settled."""

    def __init__(self, message):
        self.message, self.leaves, self.fitted = message, [], False


def _random_nodes(rnd):
    """Nodes in an order in which they can run, with all that a graph may have."""
    nodes = {}
    for i in range(rnd.randint(2, 5)):
        inputs = ["x"] if i == 0 or rnd.random() < 0.5 else []
        inputs = inputs + [name for name in nodes if rnd.random() < 0.6] or ["x"]
        joints = {
            s: interface(MLP(4, (5,), batch_norm=False).double())
            for s in inputs
            if s != "x" and rnd.random() < 0.8
        }
        clock = rnd.choice([1, 2, 4]), rnd.choice([1, 2, 3])
        nodes[f"n{i}"] = sg.Node(_Cell(len(inputs)), inputs, *clock, joints)
    return nodes


def _ticks(nodes):
    """All pairs of a node and a time at which it ticks."""
    sent, ticks = {"x"}, set()
    for time in range(1, TICKS + 5):
        for name, node in nodes.items():
            if time % node.period == 0 and sent.issuperset(node.inputs):
                ticks.add((name, time))
                sent.add(name)
    return ticks


def _simulate(nodes, xs, asked):
    """Trains nodes in place, by hand."""
    ticks = _ticks(nodes)
    states: dict[str, Any] = dict.fromkeys(nodes)
    totals: dict[str, Any] = dict.fromkeys(nodes, 0)
    letters = {(s, name): [] for name, node in nodes.items() for s in node.inputs}
    step = {name: own(node.module.parameters()) for name, node in nodes.items()}
    fit = {
        (s, name): others(joint.parameters())
        for name, node in nodes.items()
        for s, joint in node.interfaces.items()
    }
    for time, (x, wanted) in enumerate(zip(xs, asked, strict=True), start=1):
        for name, node in nodes.items():
            if (name, time) not in ticks:
                continue
            received = []
            for s in node.inputs:
                leaf = x if s == "x" else letters[s, name][-1].message.clone().requires_grad_()
                received.append(leaf)
                if s != "x":
                    letters[s, name][-1].leaves.append(leaf)
            output, message, states[name] = node.module(*received, states[name])
            if name in wanted:
                totals[name] = totals[name] + mean_square(output)
            for other in nodes:
                until = range(time, time + node.period)
                if name in nodes[other].inputs and any((other, t) in ticks for t in until):
                    h = message.detach()
                    letters[name, other].append(_Letter(h))
                    if name in nodes[other].interfaces:
                        error = nodes[other].interfaces[name].feedback(h).detach() / len(h)
                        totals[name] = totals[name] + SCALE * (message * error).sum()
        for name, node in nodes.items():
            if (name, time) not in ticks or time // node.period % node.unroll:
                continue
            step[name].zero_grad()
            if isinstance(totals[name], torch.Tensor):
                totals[name].backward()
                step[name].step()
            totals[name], states[name] = 0, states[name].detach()
            for s, joint in node.interfaces.items():
                loss = 0
                for letter in letters[s, name]:
                    used = [leaf.grad for leaf in letter.leaves if leaf.grad is not None]
                    whole = letter is not letters[s, name][-1] or node.period >= nodes[s].period
                    if used and whole and not letter.fitted:
                        h, letter.fitted = letter.message, True
                        loss = loss + joint.feedback.loss(h, len(h) * sum(used))
                if isinstance(loss, torch.Tensor):
                    fit[s, name].zero_grad()
                    loss.backward()
                    fit[s, name].step()


@pytest.mark.parametrize("seed", range(12))
def test_a_random_graph_trains_as_the_simulation_does(seed):
    rnd = random.Random(seed)
    torch.manual_seed(seed)
    nodes = _random_nodes(rnd)
    by_hand = copy.deepcopy(nodes)
    xs = [batch() for _ in range(TICKS)]
    asked = [{name for name in nodes if rnd.random() < 0.7} for _ in xs]
    shuffled = rnd.sample(list(nodes), len(nodes))
    graph = sg.MultiRate(
        {name: nodes[name] for name in shuffled},
        ["x"],
        own,
        scale=SCALE,
        feedback_optimizer=others,
    )
    for x, wanted in zip(xs, asked, strict=True):
        graph.tick({"x": x}, dict.fromkeys(wanted, mean_square))
    _simulate(by_hand, xs, asked)
    for name, node in nodes.items():
        assert_close(dict(node.module.state_dict()), dict(by_hand[name].module.state_dict()))
        for s, joint in node.interfaces.items():
            expected = by_hand[name].interfaces[s].feedback.state_dict()
            assert_close(dict(joint.feedback.state_dict()), dict(expected))
