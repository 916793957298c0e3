"""The two networks of figure 5, both as one (D.3), and their LSTM cell.

It is the one with recurrent batch normalisation of Cooijmans et al. 2016.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import synthgrad as sg
from synthgrad.lab.experiments.digit_streams import Stretch
from synthgrad.types import Float

GAMMA = 0.1
"""What normalised values are multiplied by at the start: with 1 the gates would saturate, and
errors would not come far back in time (Cooijmans et al., section 4)."""


class StepNorm(nn.Module):
    """Batch normalisation over time: each step has statistics of its own, all share γ and β.

    Early steps differ from later ones, as what a state holds only grows (Cooijmans et al.,
    section 3).

    Args:
        features: the width of what is normalised.
        steps: how many there are.
        shift: whether there is a β.
    """

    mean: Tensor
    var: Tensor

    def __init__(self, features: int, steps: int, *, shift: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((features,), GAMMA))
        self.bias = nn.Parameter(torch.zeros(features)) if shift else None
        self.register_buffer("mean", torch.zeros(steps, features))
        self.register_buffer("var", torch.ones(steps, features))

    def forward(
        self, x: Float[Tensor, "batch features"], step: int
    ) -> Float[Tensor, "batch features"]:
        """Normalises what belongs to a step, counted from 0."""
        mean, var = self.mean[step], self.var[step]
        return F.batch_norm(x, mean, var, self.weight, self.bias, self.training)


class State(NamedTuple):
    """What a cell takes from one step to the next.

    Attributes:
        h: its output, ``"batch units"``.
        c: its memory, ``"batch units"``.
        step: the number of the next step, counted from 0.
    """

    h: Tensor
    c: Tensor
    step: int


class NormLSTMCell(nn.Module):
    r"""An LSTM whose sums are normalised over the batch.

    .. math::

        (\tilde f, \tilde i, \tilde o, \tilde g) &= BN(W_h h_{t-1}) + BN(W_x x_t) + b \\
        c_t &= \sigma(\tilde f)\, c_{t-1} + \sigma(\tilde i) \tanh \tilde g \\
        h_t &= \sigma(\tilde o) \tanh BN(c_t)

    (Cooijmans et al., equations 6 to 8). Only the last BN shifts, and the forget gate's bias
    starts at 1.

    Args:
        inputs: the width of x.
        units: the width of h and c.
        steps: of a sequence, after which the next one begins.
    """

    def __init__(self, inputs: int, units: int, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.from_input = nn.Linear(inputs, 4 * units, bias=False)
        self.from_state = nn.Linear(units, 4 * units, bias=False)
        for gate in self.from_state.weight.chunk(4):
            nn.init.orthogonal_(gate)
        bias = torch.zeros(4 * units)
        bias[:units] = 1
        self.bias = nn.Parameter(bias)
        self.norm_input = StepNorm(4 * units, steps)
        self.norm_state = StepNorm(4 * units, steps)
        self.norm_cell = StepNorm(units, steps, shift=True)

    def forward(
        self, x: Float[Tensor, "batch inputs"], state: State | None
    ) -> tuple[Float[Tensor, "batch units"], State | None]:
        """One step.

        Args:
            x: what it reads.
            state: None at the first step, where h and c are zero.

        Returns:
            h, and the state, which is None after the last step.
        """
        step = 0 if state is None else state.step
        gates = self.norm_input(self.from_input(x), step) + self.bias
        if state is not None:
            gates = gates + self.norm_state(self.from_state(state.h), step)
        forget, write, show, new = gates.chunk(4, dim=1)
        c = write.sigmoid() * new.tanh()
        if state is not None:
            c = c + forget.sigmoid() * state.c
        h = show.sigmoid() * self.norm_cell(c, step).tanh()
        return h, None if step + 1 == self.steps else State(h, c, step + 1)


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
