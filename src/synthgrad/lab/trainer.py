"""The feed-forward trainer: the loop, its evaluation, and the state to resume from."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format

from synthgrad.errors import NonFiniteError
from synthgrad.interface import named_interfaces
from synthgrad.lab.batches import Batches
from synthgrad.lab.captured import CapturedStep, recorder_for
from synthgrad.lab.config import FeedForwardConfig
from synthgrad.lab.data import DataSet
from synthgrad.lab.methods import put_in
from synthgrad.lab.recipes import EVAL_BATCH, Recipe
from synthgrad.lab.runs.divergence import check_weights, most_common_error
from synthgrad.lab.steppers import BySchedule, Inline, OneByOne, Stepper, mean_loss
from synthgrad.probe import probe


class Trainer:
    """Trains one network by one method.

    Args:
        recipe: which network.
        config: all settings.
        data: the examples, on the device.

    Attributes:
        step: training steps done.
        finished: whether there is nothing left to do before the last step; never.
    """

    finished = False

    def __init__(self, recipe: Recipe, config: FeedForwardConfig, data: DataSet) -> None:
        torch.manual_seed(config.seed)
        self.config = config = recipe.settle(config)
        device = data.train_x.device
        model = recipe.network(config, data).to(device)
        example = data.train_x[:2]
        model = put_in(model, config, example, data.classes, recipe.feedback_hidden)
        laid = _memory_format(model, device)
        self.model: nn.Module = convert_conv2d_weight_memory_format(model, laid)
        train_x = data.train_x.contiguous(memory_format=laid)
        held = len(train_x) - config.validation
        self.train = (train_x[:held], data.train_y[:held])
        self.held_out = (train_x[held:], data.train_y[held:])
        self.test = (data.test_x.contiguous(memory_format=laid), data.test_y)
        self.batches = Batches(*self.train, config.batch_size, config.seed)
        by_chance = config.unlock == "full" or config.p_update < 1
        make = BySchedule if by_chance else Inline if config.unlock == "no" else OneByOne
        self.stepper: Stepper = make(self.model, config, device)
        self.step = 0
        self._losses = torch.zeros(2, device=device)  # since the last look: their sum, and how many
        self._interfaces = list(named_interfaces(self.model))
        self._x, self._y = self.batches.room()
        recorder = None if by_chance else recorder_for(device, config.graph)
        self._captured: CapturedStep | None = None
        if recorder is not None:
            self._captured = CapturedStep(self._update, self._interfaces, recorder)
        if recorder is not None or device.type == "cuda":
            for interface in self._interfaces:
                interface.check_finite = "later"

    @property
    def chance(self) -> dict[str, float]:
        """The test error of whoever always guesses the most common class."""
        return {"test_error": most_common_error(self.test[1])}

    @property
    def samples(self) -> int:
        """Examples seen."""
        return self.step * self.config.batch_size

    def summary(self) -> dict[str, Any]:
        """What the run's summary says besides the last evaluation."""
        if isinstance(self.stepper, BySchedule):
            return {"updates": dict(self.stepper.schedule.updates)}
        return {}

    def advance(self) -> None:
        """One training step; reads nothing back from the device."""
        self.stepper.rates.at(self.step)
        self.batches.fill(self.step, self._x, self._y)
        (self._captured or self._update)()
        self.step += 1

    def _update(self) -> None:
        with self._precision():
            loss = self.stepper.step(self._x, self._y)
        if loss is not None:
            self._losses[0] += loss
            self._losses[1] += 1

    def evaluate(self) -> dict[str, float]:
        """Losses and error rates (in percent) now, and the interfaces' distances.

        The training loss is the mean of the steps since the last call, NaN if none had one.

        Raises:
            NonFiniteError: the loss, or an error that came back to an interface, held NaN or
                infinity.
        """
        total, count = self._check()
        values = {"train_loss": total / count if count else math.nan}
        self._losses.zero_()
        values["train_error"] = self._error(*(part[:10_000] for part in self.train))
        if len(self.held_out[0]):
            values["validation_error"] = self._error(*self.held_out)
        values["test_error"] = self._error(*self.test)
        if self._interfaces:
            x, y = self.batches.at(self.step)
            with self._precision():
                found = probe(self.model, partial(mean_loss, y), x, y)
            for name, distance in found.items():
                values |= {f"interface/{name}/{key}": value for key, value in distance.items()}
        return values

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on.

        Raises:
            NonFiniteError: as for :meth:`evaluate`, or a weight is not finite; such a state is not
                worth to be kept.
        """
        self._check()
        check_weights(self.model)
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "stepper": self.stepper.state_dict(),
            "losses": self._losses,
            "random": torch.get_rng_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to the moment of :meth:`state_dict`."""
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.stepper.load_state_dict(state["stepper"])
        self._losses.copy_(state["losses"])
        torch.set_rng_state(state["random"])
        if self._captured is not None:
            self._captured.forget()

    def _check(self) -> list[float]:
        """The sum of the losses since the last look, and how many, if all is finite."""
        for interface in self._interfaces:
            interface.check_noted()
        total, count = self._losses.tolist()
        if not math.isfinite(total):
            raise NonFiniteError(f"the training loss is {total}")
        return [total, count]

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


def _memory_format(model: nn.Module, device: torch.device) -> torch.memory_format:
    """How images should lie in memory: a GPU's convolutions are made for channels last."""
    convolves = any(parameter.ndim == 4 for parameter in model.parameters())
    return torch.channels_last if convolves and device.type == "cuda" else torch.contiguous_format
