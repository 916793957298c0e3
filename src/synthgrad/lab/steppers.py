"""One training step, in line or one layer at a time, with Adam.

All that a step does it does on the device, so that it can be recorded and replayed there: rates
are tensors, and nothing is read back.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from synthgrad.context import context as in_context
from synthgrad.decouple import named_interfaces
from synthgrad.lab.config import FeedForwardConfig
from synthgrad.lab.rates import Rates, adam
from synthgrad.schedule import FullyUnlocked, Sporadic, Unlocked


def mean_loss(y: Tensor, output: Tensor) -> Tensor:
    """The mean cross entropy of logits ``"batch classes"``, given labels ``"batch"``."""
    return F.cross_entropy(output, y)


class Inline:
    """The plain training loop, around a model that holds interfaces."""

    def __init__(self, model: nn.Module, config: FeedForwardConfig, device: torch.device) -> None:
        self.model = model
        self.rates = Rates(config, device)
        own, others = self.rates.own, self.rates.feedback
        feedback = {p for i in named_interfaces(model) for p in i.feedback.parameters()}
        groups = [
            {"params": [p for p in model.parameters() if p not in feedback]},
            {"params": [p for p in model.parameters() if p in feedback], "lr": others.tensor},
        ]
        self.optimizer = adam([group for group in groups if group["params"]], own)

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """Updates everything once; returns the loss, detached."""
        self.optimizer.zero_grad()
        with in_context(y):
            loss = mean_loss(y, self.model(x))
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's state."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores it."""
        self.optimizer.load_state_dict(state)


class OneByOne:
    """Each layer is updated before the next one runs."""

    def __init__(self, model: nn.Module, config: FeedForwardConfig, device: torch.device) -> None:
        self.rates = Rates(config, device)
        own, others = self.rates.own, self.rates.feedback
        same = own.initial == others.initial
        self.schedule = Unlocked(
            model,
            partial(adam, rate=own),
            feedback_optimizer=None if same else partial(adam, rate=others),
        )

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """Updates everything once; returns the loss, detached."""
        return self.schedule.step(x, partial(mean_loss, y), y)

    def state_dict(self) -> dict[str, Any]:
        """The optimisers' states."""
        return self.schedule.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores them."""
        self.schedule.load_state_dict(state)


class BySchedule:
    """Layers are updated by chance, or run by chance altogether.

    Which do is decided in Python, so such a step cannot be recorded.
    """

    def __init__(self, model: nn.Module, config: FeedForwardConfig, device: torch.device) -> None:
        self.rates = Rates(config, device)
        own, others, inputs = (
            partial(adam, rate=rate)
            for rate in (self.rates.own, self.rates.feedback, self.rates.inputs)
        )
        p = config.p_update
        self.schedule: FullyUnlocked | Sporadic
        if config.unlock == "full":
            self.schedule = FullyUnlocked(
                model, own, p, feedback_optimizer=others, input_optimizer=inputs
            )
        else:
            self.schedule = Sporadic(model, own, p, feedback_optimizer=others)

    def step(self, x: Tensor, y: Tensor) -> Tensor | None:
        """One step; returns the loss, detached, or None where the last layer was busy."""
        return self.schedule.step(x, partial(mean_loss, y), y)

    def state_dict(self) -> dict[str, Any]:
        """The optimisers' states, and how often each was used."""
        return self.schedule.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores it."""
        self.schedule.load_state_dict(state)


Stepper = Inline | OneByOne | BySchedule
