"""Small networks that the tests state their laws on, and how their gradients are read off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

import synthgrad as sg
from synthgrad.interface import Interface

Loss = Callable[[Any], Tensor]


def chain(widths: Sequence[int], dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """Layers "0", "1", …, each a linear map and a tanh, then a linear one without."""
    sizes = list(pairwise(widths))
    layers = [nn.Sequential(nn.Linear(a, b), nn.Tanh()) for a, b in sizes[:-1]]
    return nn.Sequential(*layers, nn.Linear(*sizes[-1])).to(dtype)


def hidden(model: nn.Sequential) -> list[str]:
    """The names of all layers but the last: a cut behind each is an interface everywhere."""
    return [str(i) for i in range(len(model) - 1)]


def interfaces(model: nn.Module) -> list[Interface]:
    return [m for m in model.modules() if isinstance(m, Interface)]


def awake(model: nn.Module, scale: float = 0.5) -> nn.Module:
    """Gives every feedback model random weights, since a fresh one predicts zero."""
    with torch.no_grad():
        for interface in interfaces(model):
            for parameter in interface.feedback.parameters():
                parameter.normal_(std=scale)
    return model


class Residual(nn.Module):
    """``h + tanh(W h)``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.linear(h).tanh()


class FanOut(nn.Module):
    """Two hidden layers; the last one receives the messages of both."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, width)
        self.second = nn.Linear(width, width)
        self.last = nn.Linear(2 * width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.last(torch.cat([h.tanh(), self.second(h.tanh()).tanh()], dim=1))


class Value(nn.Module):
    """A critic's value, of the message alone or of its label too."""

    def __init__(self, width: int, classes: int = 0) -> None:
        super().__init__()
        self.inner = nn.Linear(width, 3)
        self.outer = nn.Linear(3, 1)
        self.label = nn.Embedding(classes, 3) if classes else None

    def forward(self, h: Tensor, context: Any) -> Tensor:
        x = self.inner(h.flatten(1))
        if self.label is not None:
            x = x + self.label(context)
        return self.outer(x.tanh()).squeeze(1)


def squares(target: Tensor) -> Loss:
    """Half the squared distance of each example from its target."""
    return lambda output: (output - target).square().flatten(1).sum(dim=1) / 2


def backward(model: nn.Module, x: Any, loss_fn: Loss, context: Any = None) -> Tensor:
    """A plain training loop's forward and backward pass, for one loss or one per example."""
    model.zero_grad()
    with sg.context(context):
        loss = loss_fn(model(x))
    loss = sg.losses(loss).mean() if loss.ndim else loss
    loss.backward()
    return loss.detach()


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """A copy of every gradient there is, by the name of its parameter."""
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def network(named: dict[str, Tensor]) -> dict[str, Tensor]:
    """What belongs to the network itself and not to a feedback model."""
    return {name: value for name, value in named.items() if "feedback." not in name}
