"""The feed-forward trainer: the loop, its evaluation, and the state to resume from."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from synthgrad.context import context as in_context
from synthgrad.interface import named_interfaces
from synthgrad.lab.batches import Batches
from synthgrad.lab.config import FeedForwardConfig
from synthgrad.lab.data import DataSet
from synthgrad.lab.methods import put_in
from synthgrad.lab.recipes import Recipe
from synthgrad.lab.schedules import rate_factor
from synthgrad.probe import probe
from synthgrad.schedule import Unlocked

EVAL_BATCH = 2000


class Trainer:
    """Trains one network by one method.

    Args:
        recipe: which network.
        config: all settings.
        data: the examples, on the device.
    """

    def __init__(self, recipe: Recipe, config: FeedForwardConfig, data: DataSet) -> None:
        torch.manual_seed(config.seed)
        self.config = config = recipe.settle(config)
        held = len(data.train_x) - config.validation
        self.train = (data.train_x[:held], data.train_y[:held])
        self.held_out = (data.train_x[held:], data.train_y[held:])
        self.test = (data.test_x, data.test_y)
        model = recipe.network(config, data).to(data.train_x.device)
        example = data.train_x[:2]
        self.model = put_in(model, config, example, data.classes, recipe.feedback_hidden)
        self.batches = Batches(*self.train, config.batch_size, config.seed)
        self.stepper = (_Inline if config.unlock == "no" else _Unlocked)(self.model, config)
        self.step = 0
        self._loss = torch.zeros((), device=data.train_x.device)
        self._since = 0

    def advance(self) -> None:
        """One training step."""
        x, y = self.batches.at(self.step)
        self.stepper.set_rate(rate_factor(self.step, self.config.iterations))
        # Summed on the device: no step waits for a number to be read.
        with self._precision():
            self._loss += self.stepper.step(x, y)
        self._since += 1
        self.step += 1

    def evaluate(self) -> dict[str, float]:
        """Losses and error rates (in percent) now, and the interfaces' distances."""
        values = {"train_loss": self._loss.item() / max(self._since, 1)}
        self._loss.zero_()
        self._since = 0
        values["train_error"] = self._error(*(part[:10_000] for part in self.train))
        if len(self.held_out[0]):
            values["validation_error"] = self._error(*self.held_out)
        values["test_error"] = self._error(*self.test)
        if named_interfaces(self.model):
            x, y = self.batches.at(self.step)
            with self._precision():
                found = probe(self.model, partial(_loss, y), x, y)
            for name, distance in found.items():
                values |= {f"interface/{name}/{key}": value for key, value in distance.items()}
        return values

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "stepper": self.stepper.state_dict(),
            "loss": self._loss,
            "since": self._since,
            "random": torch.get_rng_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to the moment of :meth:`state_dict`."""
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.stepper.load_state_dict(state["stepper"])
        self._loss = state["loss"].to(self._loss.device)
        self._since = state["since"]
        torch.set_rng_state(state["random"])

    def _precision(self) -> torch.autocast:
        enabled = self.config.precision == "bfloat16"
        return torch.autocast(self.train[0].device.type, torch.bfloat16, enabled=enabled)

    @torch.no_grad()
    def _error(self, x: Tensor, y: Tensor) -> float:
        self.model.eval()
        wrong = torch.zeros((), dtype=torch.long, device=x.device)
        for part, labels in zip(x.split(EVAL_BATCH), y.split(EVAL_BATCH), strict=True):
            wrong += (self.model(part).argmax(dim=1) != labels).sum()
        self.model.train()
        return 100 * wrong.item() / len(x)


def _loss(y: Tensor, output: Tensor) -> Tensor:
    return F.cross_entropy(output, y)


def _adam(config: FeedForwardConfig) -> Callable[..., torch.optim.Optimizer]:
    return partial(torch.optim.Adam, lr=config.learning_rate, fused=True)


class _Inline:
    """The plain training loop, around a model that holds interfaces."""

    def __init__(self, model: nn.Module, config: FeedForwardConfig) -> None:
        self.model = model
        feedback = {p for i in named_interfaces(model) for p in i.feedback.parameters()}
        rate = config.feedback_learning_rate
        groups = [
            {"params": [p for p in model.parameters() if p not in feedback]},
            {"params": [p for p in model.parameters() if p in feedback], "lr": rate},
        ]
        self.optimizer = _adam(config)([group for group in groups if group["params"]])
        self.rates = [group["lr"] for group in self.optimizer.param_groups]

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        self.optimizer.zero_grad()
        with in_context(y):
            loss = _loss(y, self.model(x))
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def set_rate(self, factor: float) -> None:
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor

    def state_dict(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state)


class _Unlocked:
    """Each layer is updated before the next one runs."""

    def __init__(self, model: nn.Module, config: FeedForwardConfig) -> None:
        make, rate = _adam(config), config.feedback_learning_rate
        same = rate == config.learning_rate
        self.schedule = Unlocked(
            model, make, feedback_optimizer=None if same else partial(make, lr=rate)
        )
        self.factor = 1.0

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        loss_fn = partial(_loss, y)
        if not self.schedule.optimizers:
            self.schedule.prepare(x, loss_fn, y)
            self.set_rate(self.factor)
        return self.schedule.step(x, loss_fn, y)

    def set_rate(self, factor: float) -> None:
        self.factor = factor
        for optimizer in self.schedule.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = optimizer.defaults["lr"] * factor

    def state_dict(self) -> dict[str, Any]:
        return self.schedule.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.schedule.load_state_dict(state)
