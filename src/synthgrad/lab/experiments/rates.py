"""Learning rates, how they fall, and Adam with them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.optim import Adam


def rate_factor(step: int, iterations: int) -> float:
    """What the initial rate is multiplied with at a step, counted from 0.

    0.1 from 60% of the run and 0.01 from 80%: the paper's 300k and 400k of 500k (D.1).
    """
    return 0.1 ** ((10 * step >= 6 * iterations) + (10 * step >= 8 * iterations))


class Rate:
    """A learning rate that falls: a tensor, which a replayed step reads anew.

    Args:
        initial: the rate at a factor of 1.
        device: of the parameters.
    """

    def __init__(self, initial: float, device: torch.device) -> None:
        self.initial = initial
        self.factor = 1.0
        # A GPU's kernel reads single precision; a CPU's takes what a Python number holds.
        dtype = torch.float32 if device.type == "cuda" else torch.float64
        self.tensor = torch.tensor(initial, dtype=dtype, device=device)

    def set(self, factor: float) -> None:
        """Makes it ``factor`` times the initial rate."""
        if factor != self.factor:
            self.factor = factor
            self.tensor.fill_(self.initial * factor)


def adam(parameters: Iterable[Any], rate: Rate) -> Adam:
    """Adam for parameters, or for groups of them, which may have rates of their own.

    It stays fit for the device it was made on when it loads a state that was saved on another.
    """
    capturable = rate.tensor.is_cuda
    optimizer = Adam(parameters, lr=rate.tensor, fused=True, capturable=capturable)
    own = [{key: group[key] for key in ("lr", "capturable")} for group in optimizer.param_groups]

    def keep(loaded: torch.optim.Optimizer) -> None:
        for group, kept in zip(loaded.param_groups, own, strict=True):
            group.update(kept)
        for parameter, state in loaded.state.items():
            for key, value in state.items():
                if value.shape == parameter.shape and value.stride() != parameter.stride():
                    # The kernel walks over both as they lie in memory.
                    state[key] = torch.empty_like(parameter).copy_(value)

    optimizer.register_load_state_dict_post_hook(keep)
    return optimizer


class Rates:
    """The rates of a feed-forward run, which fall as the paper's.

    Args:
        own: that of the network, at first.
        feedback: that of the feedback models.
        inputs: that of the models that predict inputs.
        iterations: of the run.
        device: of the parameters.
        inputs_fall: whether that of the models that predict inputs falls with the others.
    """

    def __init__(
        self,
        own: float,
        feedback: float,
        inputs: float,
        iterations: int,
        device: torch.device,
        *,
        inputs_fall: bool,
    ) -> None:
        self.own, self.feedback, self.inputs = (
            Rate(initial, device) for initial in (own, feedback, inputs)
        )
        self._iterations = iterations
        self._falling = [self.own, self.feedback, *([self.inputs] if inputs_fall else [])]

    def at(self, step: int) -> None:
        """Makes them those of a step, counted from 0."""
        for rate in self._falling:
            rate.set(rate_factor(step, self._iterations))
