"""Small nodes of multi-rate graphs, in double precision."""

from functools import partial

import torch
from torch import nn
from torch.optim import SGD, Adam

import synthgrad as sg
from synthgrad.feedback import MLP
from tests.networks import awake

still = partial(SGD, lr=0.0)
adam = partial(Adam, lr=0.01)


class Layer(nn.Module):
    """Adds its inputs up; stateless."""

    def __init__(self, width=4):
        super().__init__()
        self.linear = nn.Linear(4, width).double()

    def forward(self, *inputs_and_state):
        *inputs, _ = inputs_and_state
        h = self.linear(sum(inputs)).tanh()
        return sg.Ticked(h, h)


class Cell(nn.Module):
    """A recurrent one."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(4, 4).double()
        self.ticks = []

    def forward(self, *inputs_and_state):
        *inputs, state = inputs_and_state
        self.ticks.append(inputs[0].detach())
        h = self.cell(sum(inputs), state)
        return sg.Ticked(h, h, h)


def interface(feedback=None):
    it = sg.Interface(feedback or MLP(4, (5,)).double(), name="it")
    awake(it)
    return it


def batch():
    return torch.randn(6, 4).double()


def mean_square(output):
    return output.square().mean()


def gradients(module):
    return {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
