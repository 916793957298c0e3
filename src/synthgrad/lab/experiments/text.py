"""Language models by characters: early stopping, and the best model's test error (3.1, D.2)."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field, field_validator
from torch import Tensor
from torch.nn import functional as F

from synthgrad.errors import NonFiniteError
from synthgrad.lab.data.text import TextData, load_text
from synthgrad.lab.errors import UsageError
from synthgrad.lab.experiment import Axis, Metric, Trainer
from synthgrad.lab.experiments.learner import Averages, Chunk, Learner
from synthgrad.lab.experiments.lstm import Network
from synthgrad.lab.experiments.recurrent import (
    BITS,
    EXPLAINED,
    OF_ANY,
    TRAIN_BITS,
    TRAINING,
    RecurrentConfig,
    RecurrentExperiment,
)
from synthgrad.lab.runs.divergence import entropy

ROWS = 256
CONTEXT = 128
"""Characters that a row reads before its first prediction counts."""
STEPS = 100
"""At a time, to bound memory."""


class TextConfig(RecurrentConfig):
    """The options of language modelling by characters.

    Raises:
        UsageError: as for :class:`RecurrentConfig`.
    """

    eval_every: Annotated[int, Field(ge=1)] = 5000
    """Steps between evaluations on the validation text."""
    patience: Annotated[int, Field(ge=0)] = 1
    """Evaluations without a new best after which training stops; 0 for never."""
    bpc_level: Annotated[float, Field(gt=0)] = 1.35
    """Test bits per character whose data and time are noted when they are first reached."""
    evaluation_characters: Annotated[int, Field(ge=0)] = 0
    """Of the validation and of the test text only so many, from the start; 0 for all."""

    @field_validator("evaluation_characters")
    @classmethod
    def _something_to_predict(cls, value: int) -> int:
        if value == 1:
            raise ValueError("of one character there is none to predict; expected 2 or more")
        return value


class TextStream:
    """Chunks of a text, which is thought of as a ring.

    The rows begin at equal distances. When all have read their own stretch the text was read once,
    and each goes on where it is, so that a row never jumps. Which chunk comes at a step depends on
    the step alone.

    Args:
        text: characters as numbers, int64.
        symbols: how many different ones there are.
        batch: rows.
        unroll: steps of a chunk.

    Raises:
        UsageError: a row would have nothing to read.
    """

    def __init__(self, text: Tensor, symbols: int, batch: int, unroll: int) -> None:
        if batch > len(text):
            raise UsageError(
                f"--batch-size: {batch} rows, but the text has only {len(text)} characters"
            )
        self._text = text
        self._length = len(text)
        self._unroll = unroll
        device = text.device
        self._begins = torch.arange(batch, device=device) * len(text) // batch
        self._ahead = torch.arange(unroll + 1, device=device).unsqueeze(1)
        self._table = torch.eye(symbols, device=device)
        self._weights = torch.ones(2, unroll, batch, device=device)
        self._numbers = self._weights.sum(dim=(1, 2))

    def at(self, step: int) -> Chunk:
        """What all rows read at a step, counted from 0; each next character is a target."""
        where = (self._begins + step * self._unroll % self._length + self._ahead) % self._length
        symbols = self._text[where]
        inputs = F.embedding(symbols[:-1], self._table)
        return Chunk(inputs, symbols[1:], self._weights, self._numbers)


@torch.no_grad()
def bits_per_character(
    network: Network, text: Tensor, *, rows: int = ROWS, context: int = CONTEXT
) -> float:
    """The mean cross entropy, in bits, of all characters of a text but the first.

    A text of millions of characters, read one after the other, would keep no processor busy. So
    rows read stretches of it side by side. Each but the first, which begins with the text, reads
    the end of the stretch before at first, to have a state.

    Args:
        network: predicts each next character.
        text: characters as numbers, int64, at least two.
        rows: at most; fewer where stretches would be shorter than ``context``.
        context: characters read before.
    """
    predictions = len(text) - 1
    rows = max(1, min(rows, predictions // max(context, 1)))
    stretch = -(-predictions // rows)
    context = min(context, stretch) if rows > 1 else 0
    begins = torch.arange(rows, device=text.device) * stretch
    table = torch.eye(network.core.input_size, device=text.device)
    state = network.zero_state(rows)
    bits = torch.zeros((), dtype=torch.float64, device=text.device)

    def symbols(first: int, steps: int) -> tuple[Tensor, Tensor]:
        """Numbers of steps and of what lies in the text, from a step of the stretches."""
        steps_ahead = torch.arange(first, first + steps, device=text.device).unsqueeze(1)
        where = begins + steps_ahead
        return text[where.clamp(0, predictions)], where

    if context:
        before, _ = symbols(-context, context)
        _, state = network.core(F.embedding(before, table), state)
        for part in state:
            part[:, 0] = 0  # nothing comes before the first row
    for first in range(0, stretch, STEPS):
        steps = min(STEPS, stretch - first)
        read, where = symbols(first, steps + 1)
        logits, state = network(F.embedding(read[:-1], table), state)
        losses = F.cross_entropy(logits.flatten(0, 1), read[1:].flatten(), reduction="none")
        bits += (losses * (where[1:] <= predictions).flatten()).sum(dtype=torch.float64)
    return bits.item() / math.log(2) / predictions


class TextTrainer(Trainer):
    """Trains one network on one text by one method (D.2).

    At each evaluation the validation part is measured, and the test part too where that gives a new
    best: what is reported is the test error of the best model by validation. After ``patience``
    evaluations without a new best it is finished.

    Args:
        config: all settings, settled.
        data: the text, on the device.

    Raises:
        UsageError: the text is too short for so many rows, or a row for an unroll.
    """

    def __init__(self, config: TextConfig, data: TextData) -> None:
        self.config = config
        symbols = len(data.symbols)
        self.stream = TextStream(data.train, symbols, config.batch_size, config.unroll)
        row = len(data.train) // config.batch_size
        if config.unroll > row:
            raise UsageError(
                f"--unroll: {config.unroll} steps, but each of the {config.batch_size} rows has "
                f"only {row} characters of the text"
            )
        self.learner = Learner(config, symbols, symbols, data.train.device)
        limit = config.evaluation_characters or None
        self._validation, self._test = data.validation[:limit], data.test[:limit]
        self._window = Averages(self.learner.totals, 0)
        self._best = {"validation_bpc": math.inf, "test_bpc": math.inf}
        self._worse = 0
        self._reached: dict[str, float] | None = None
        self._seconds = 0.0
        self._since: float | None = None

    @property
    def chance(self) -> dict[str, float]:
        """The bits per character of whoever knows how common each is, and no more."""
        return {"validation_bpc": entropy(self._validation)}

    @property
    def samples(self) -> int:
        """Characters that all rows have read."""
        return self.step * self.config.consumed

    @property
    def finished(self) -> bool:
        """Whether the validation error has risen as often as is waited for."""
        return 0 < self.config.patience <= self._worse

    def advance(self) -> None:
        """One training step; reads nothing back from the device."""
        if self._since is None:
            self._since = time.perf_counter()
        self.learner.learn(self.stream.at(self.step), self.step)
        self.step += 1

    def evaluate(self) -> dict[str, float]:
        """Bits per character in training since the last evaluation, on validation, and on test.

        Returns:
            ``train_bits``; ``validation_bpc`` now; ``best_validation_bpc`` and ``test_bpc`` of the
            best model so far; ``samples``; and :meth:`Learner.measured`.

        Raises:
            NonFiniteError: training has diverged.
        """
        window = self._window.look()
        self._stop_clock()
        self._window.restart(window)
        network = self.learner.network
        validation = bits_per_character(network, self._validation)
        if not math.isfinite(validation):
            raise NonFiniteError(
                f"training has diverged: {validation} bits per character of the validation part "
                f"after {self.samples} samples"
            )
        if validation < self._best["validation_bpc"]:
            self._worse = 0
            self._best = {
                "validation_bpc": validation,
                "test_bpc": bits_per_character(network, self._test),
            }
        else:
            self._worse += 1
        if self._reached is None and self._best["test_bpc"] <= self.config.bpc_level:
            self._reached = {"data_to_bpc": self.samples, "seconds_to_bpc": self._seconds}
        return {
            "train_bits": window.mean,
            "validation_bpc": validation,
            "best_validation_bpc": self._best["validation_bpc"],
            "test_bpc": self._best["test_bpc"],
            "samples": self.samples,
            **self.learner.measured(),
        }

    def summary(self) -> dict[str, Any]:
        """What the run's summary says besides the last evaluation.

        ``data_to_bpc`` and ``seconds_to_bpc``: the characters read, and the seconds of training
        (evaluations and checkpoints left out), until the best model's test error was at
        ``bpc_level`` or below; None if it never was.
        """
        reached = self._reached or {"data_to_bpc": None, "seconds_to_bpc": None}
        return {"bpc_level": self.config.bpc_level, **reached}

    def _stop_clock(self) -> None:
        """Adds the time since the last stop; the device has done all by then."""
        if self._since is not None:
            self._seconds += time.perf_counter() - self._since
            self._since = None

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on.

        Raises:
            NonFiniteError: training has diverged.
        """
        learner = self.learner.state_dict()  # waits for the device
        self._stop_clock()
        return {
            "step": self.step,
            "learner": learner,
            "window": self._window.state(),
            "best": dict(self._best),
            "worse": self._worse,
            "reached": self._reached,
            "seconds": self._seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to the moment of :meth:`state_dict`."""
        self.step = state["step"]
        self.learner.load_state_dict(state["learner"])
        self._window.restore(state["window"])
        self._best = dict(state["best"])
        self._worse = state["worse"]
        self._reached = state["reached"]
        self._seconds = state["seconds"]


@dataclass(frozen=True, kw_only=True)
class Text(RecurrentExperiment[TextConfig, TextData]):
    """A text to be predicted, character by character."""

    metrics: ClassVar = (
        Metric(
            "test_bpc",
            "Test bits per character (best model)",
            3,
            "test bpc {:.3f}",
            outcome="test bits per character {:.3f}",
        ),
        Metric("best_validation_bpc", "Validation bits per character (best model)", 3),
        Metric(
            "validation_bpc",
            "Validation bits per character (last model)",
            3,
            "validation bpc {:.3f}",
        ),
        TRAIN_BITS,
        Metric("data_to_bpc", "Characters read to {level}", 0),
        Metric("seconds_to_bpc", "Training seconds to {level}"),
        *OF_ANY,
        Metric("bpc_level"),
    )
    charts: ClassVar = (
        TRAINING,
        Axis("validation_bpc", "Validation error", BITS, over="samples", from_zero=False),
        Axis(
            "test_bpc",
            "Test error of the best model so far",
            BITS,
            over="samples",
            from_zero=False,
        ),
        EXPLAINED,
    )
    stops_early: ClassVar = True

    def memory(self, config: TextConfig) -> int:
        """About how many bytes training needs."""
        return self.bytes_for(config, _SYMBOLS)

    def load(self, root: Path | None, device: torch.device) -> TextData:
        """The text, on the device."""
        return load_text(self.data, root, device)

    def build(self, config: TextConfig, data: TextData, device: torch.device) -> TextTrainer:
        """What trains it; ``device`` is that of the text."""
        return TextTrainer(config, data)


_SYMBOLS = 50
"""Different characters of a text."""

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Text(
            "ptb",
            "Table 1, Penn Treebank; figure 4, right; figure 16",
            "ptb",
            TextConfig(),
            suits={
                "samples": 3_000_000,
                "units": 128,
                "batch_size": 128,
                "learning_rate": 8e-3,
                "clip": 1.0,
                "scale": 0.1,
                # Its error is noise for the most part: a larger model learns that (docs/log.md).
                "feedback_hidden": (),
                "feedback_history": 0,
                "feedback_learning_rate": 3e-5,
            },
            sizes={"units": 1024},
            larger_steps=True,
        ),
    )
}
