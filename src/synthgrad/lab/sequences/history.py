"""The inputs that a feedback model sees besides the LSTM's output: the last few, whatever T is."""

from __future__ import annotations

import torch
from torch import Tensor

from synthgrad.types import Float


class History:
    """The last inputs of every row, carried from unroll to unroll.

    A state that has forgotten a character cannot tell M which error that character will cause; an
    input that M sees itself can. Inputs are small next to states, and nothing is backpropagated
    through them.

    Args:
        length: how many inputs, the present one among them.
        batch: rows.
        channels: the width of an input.
        device: where they live.

    Attributes:
        past: the inputs before the next unroll, ``"length-1 batch channels"``; zeros at first.
    """

    def __init__(self, length: int, batch: int, channels: int, device: torch.device) -> None:
        self.length = length
        self.past = torch.zeros(max(length - 1, 0), batch, channels, device=device)

    def windows(
        self, inputs: Float[Tensor, "steps batch channels"], steps: int
    ) -> Float[Tensor, "wanted batch width"]:
        """For each of the last ``steps`` steps, its last inputs side by side."""
        if not self.length:
            return inputs[-steps:, :, :0]
        every = torch.cat([self.past, inputs])[-(len(self.past) + steps) :]
        return every.unfold(0, self.length, 1).flatten(2)

    def advance(self, inputs: Float[Tensor, "steps batch channels"]) -> None:
        """Goes on to the next unroll, in the same memory."""
        if len(self.past):
            self.past.copy_(torch.cat([self.past, inputs])[-len(self.past) :])
