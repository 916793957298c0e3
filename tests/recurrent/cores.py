"""Recurrent cores of every kind, with states of every kind, and how their gradients are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import pytest
import torch
from torch import Tensor, nn

import synthgrad as sg
from synthgrad._nest import floating
from synthgrad.feedback import Feedback, Linear

INPUTS, UNITS = 3, 4


class Core(nn.Module):
    """Steps one time step at a time; reads out two numbers of each message."""

    batch_dim: int | None = None

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(UNITS, 2)

    def initial(self, batch: int) -> Any:
        return torch.zeros(batch, UNITS, dtype=self.out.weight.dtype)

    def forward(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        raise NotImplementedError

    def message(self, x: Tensor, state: Any) -> Tensor:
        return self(x, state)[0]

    def loss(self, message: Tensor, target: Tensor) -> Tensor:
        return (self.out(message) - target).square().sum(dim=-1).mean()

    def width(self) -> int:
        return sum(tensor.numel() for tensor in floating(self.initial(1)))


class Stacked(Core):
    """``nn.LSTM``, ``nn.GRU`` or ``nn.RNN``: states (layers, batch, units)."""

    def __init__(self, kind: Callable[..., nn.Module], layers: int) -> None:
        super().__init__()
        self.rnn = kind(INPUTS, UNITS, layers)
        self.layers = layers

    def initial(self, batch):
        zeros = torch.zeros(self.layers, batch, UNITS, dtype=self.out.weight.dtype)
        return (zeros, zeros.clone()) if isinstance(self.rnn, nn.LSTM) else zeros

    def forward(self, x, state):
        output, state = self.rnn(x.unsqueeze(0), state)
        return output[0], state


class OneCell(Core):
    def __init__(self, kind: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.cell = kind(INPUTS, UNITS)

    def initial(self, batch):
        zeros = super().initial(batch)
        return (zeros, zeros.clone()) if isinstance(self.cell, nn.LSTMCell) else zeros

    def forward(self, x, state):
        state = self.cell(x, state)
        return (state[0] if isinstance(state, tuple) else state), state


class Memory(NamedTuple):
    fast: Tensor
    slow: list[Tensor]


class Nested(Core):
    """A user's core: dicts, named tuples, lists, a counter that is no number of the graph, None."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(INPUTS, UNITS)
        self.mix = nn.Linear(UNITS + 2, 2)

    def initial(self, batch):
        slow = torch.zeros(batch, 2, dtype=self.out.weight.dtype)
        memory = Memory(super().initial(batch), [slow])
        return {"memory": memory, "steps": torch.zeros(batch, dtype=torch.long), "none": None}

    def forward(self, x, state):
        x = x + nn.functional.pad(state["memory"].slow[0], (0, 1))
        fast = self.cell(x, state["memory"].fast)
        slow = self.mix(torch.cat([fast, state["memory"].slow[0]], dim=1)).tanh()
        memory = Memory(fast, [slow])
        return fast, {"memory": memory, "steps": state["steps"] + 1, "none": None}


class Transposed(Core):
    """A state whose batch is the last dimension."""

    batch_dim = -1

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.RNNCell(INPUTS, UNITS)

    def initial(self, batch):
        return super().initial(batch).T

    def forward(self, x, state):
        h = self.cell(x, state.T)
        return h, h.T


CORES: dict[str, Callable[[], Core]] = {
    "LSTM": lambda: Stacked(nn.LSTM, 1),
    "LSTM, two layers": lambda: Stacked(nn.LSTM, 2),
    "GRU, three layers": lambda: Stacked(nn.GRU, 3),
    "RNN": lambda: Stacked(nn.RNN, 1),
    "LSTMCell": lambda: OneCell(nn.LSTMCell),
    "GRUCell": lambda: OneCell(nn.GRUCell),
    "nested": Nested,
    "transposed": Transposed,
}
every = pytest.mark.parametrize("kind", CORES)


def bridge(core: Core, feedback: Feedback | None = None, **options: Any) -> Any:
    """One that predicts something, unless a feedback model is given."""
    if feedback is None:
        feedback = awake(Linear(UNITS, out_features=core.width()).to(core.out.weight.dtype))
    return sg.RecurrentInterface(feedback, batch_dim=core.batch_dim, **options)


def awake(model: Feedback) -> Feedback:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    return model


def stream(steps: int, batch: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return (
        torch.randn(steps, batch, INPUTS, dtype=dtype),
        torch.randn(steps, batch, 2, dtype=dtype),
    )


def unroll(core: Core, xs: Tensor, ys: Tensor, state: Any) -> tuple[Tensor, Any, Any, Any]:
    """The loss of some steps, the state after them, the messages, the state before the last."""
    messages, loss, before = [], torch.zeros(()), state
    for x, y in zip(xs, ys, strict=True):
        before = state
        message, state = core(x, state)
        messages.append(message)
        loss = loss + core.loss(message, y)
    return loss, state, messages, before


def per_example_rows(errors: Sequence[Tensor], batch: int, batch_dims: Sequence[int]) -> Tensor:
    """Mean errors of a state's tensors as rows of per-example errors: slow and obvious."""
    rows = []
    for b in range(batch):
        parts = [e.select(d, b).flatten() for e, d in zip(errors, batch_dims, strict=True)]
        rows.append(torch.cat(parts) * batch)
    return torch.stack(rows)


def batch_dims(core: Core, state: Any) -> list[int]:
    if isinstance(core, Stacked):
        return [1] * len(floating(state))
    return [0 if core.batch_dim is None else 1] * len(floating(state))


def gradients(*modules: nn.Module) -> dict[str, Tensor]:
    """A copy of every gradient; one that is absent counts as zero."""
    return {
        f"{i}.{name}": torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for i, module in enumerate(modules)
        for name, p in module.named_parameters()
    }


def errors(state: Any) -> list[Tensor]:
    """The errors that arrived at a state's tensors."""
    return [cast(Tensor, tensor.grad) for tensor in floating(state)]


def by_each(core: Core, it: Any, *runs: Callable[..., Any]) -> list[Any]:
    """The gradients of two chunks of one step, by each way to run the core."""
    found = []
    for run in runs:
        torch.manual_seed(0)
        it.reset()
        core.zero_grad()
        it.zero_grad()
        state = core.initial(4)
        for _ in range(2):
            xs, ys = stream(1, 4)
            message, state = run(xs[0], it.begin(state))
            (core.loss(message, ys[0]) + it.end(state, message)).backward()
        found.append(gradients(core, it))
    return found
