"""The two networks of figure 5, and both as one (D.3)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

import synthgrad as sg
from synthgrad.lab.multinetwork.cell import NormLSTMCell, State
from synthgrad.lab.multinetwork.stream import Stretch


class NetworkA(nn.Module):
    """Sees a digit at every tick, and counts the odd ones of T ticks.

    Two layers (linear, batch norm, ReLU), the LSTM, and from its output the answer, as logits for
    0 … T, and the message (linear, batch norm). It begins anew every T ticks.

    Args:
        pixels: of an image.
        units: of each layer, and values of the message.
        unroll: T.
    """

    def __init__(self, pixels: int, units: int, unroll: int) -> None:
        super().__init__()
        self.eye = nn.Sequential(
            nn.Linear(pixels, units, bias=False),
            nn.BatchNorm1d(units),
            nn.ReLU(),
            nn.Linear(units, units, bias=False),
            nn.BatchNorm1d(units),
            nn.ReLU(),
        )
        self.cell = NormLSTMCell(units, units, unroll)
        self.answer = nn.Linear(units, unroll + 1)
        self.message = nn.Sequential(nn.Linear(units, units, bias=False), nn.BatchNorm1d(units))

    def forward(self, digit: Tensor, state: State | None) -> sg.Ticked:
        """One tick; the answer and the message come with the last of T ticks."""
        h, state = self.cell(self.eye(digit), state)
        if state is not None:
            return sg.Ticked(None, None, state)
        return sg.Ticked(self.answer(h), self.message(h), None)


class NetworkB(nn.Module):
    """Hears a message once in T ticks, and counts the threes that went by in T².

    The LSTM, and from its output the answer, as logits for 0 … T². It begins anew every T² ticks.

    Args:
        units: of the LSTM, and values of the message.
        unroll: T.
    """

    def __init__(self, units: int, unroll: int) -> None:
        super().__init__()
        self.cell = NormLSTMCell(units, units, unroll)
        self.answer = nn.Linear(units, unroll**2 + 1)

    def forward(self, message: Tensor, state: State | None) -> sg.Ticked:
        """One tick; the answer comes with the last of T messages."""
        h, state = self.cell(message, state)
        return sg.Ticked(self.answer(h) if state is None else None, None, state)


class Answers(NamedTuple):
    """What both networks say at a tick, as logits; None where one says nothing."""

    odd: Tensor | None
    threes: Tensor | None


class Joint(nn.Module):
    """Both networks as one graph, for backpropagation from end to end."""

    def __init__(self, a: NetworkA, b: NetworkB) -> None:
        super().__init__()
        self.a, self.b = a, b

    def forward(self, digit: Tensor, state: tuple[State | None, State | None] | None) -> sg.Ticked:
        """One tick of A, and of B where there is a message."""
        state_a, state_b = state or (None, None)
        odd, message, state_a = self.a(digit, state_a)
        threes = None
        if message is not None:
            threes, _, state_b = self.b(message, state_b)
        return sg.Ticked(Answers(odd, threes), None, (state_a, state_b))


@torch.no_grad()
def errors(a: NetworkA, b: NetworkB, tested: Stretch) -> tuple[float, float]:
    """How often A's and B's answers are wrong, in percent; both networks as plain modules."""
    joint, state = Joint(a, b).eval(), None
    said: list[Tensor] = []
    answers = Answers(None, None)
    for digit in tested.digits:
        answers, _, state = joint(digit, state)
        if answers.odd is not None:
            said.append(answers.odd.argmax(dim=1))
    joint.train()
    assert answers.threes is not None, "B answers at the last tick"
    wrong_a = (torch.stack(said) != tested.odd).float().mean()
    wrong_b = (answers.threes.argmax(dim=1) != tested.threes_in_all).float().mean()
    return 100 * wrong_a.item(), 100 * wrong_b.item()
