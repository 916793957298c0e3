"""Copy and Repeat Copy: endless episodes that grow longer as they are solved (3.1, D.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator

from synthgrad.errors import NonFiniteError
from synthgrad.lab.experiment import Axis, Metric, Trainer
from synthgrad.lab.experiments.episodes import Blocks, EpisodeStream
from synthgrad.lab.experiments.learner import Averages, Learner
from synthgrad.lab.experiments.levels import Curriculum, Task
from synthgrad.lab.experiments.recurrent import (
    EXPLAINED,
    OF_ANY,
    TRAIN_BITS,
    TRAINING,
    RecurrentConfig,
    RecurrentExperiment,
)


class EpisodeConfig(RecurrentConfig):
    """The options of Copy and Repeat Copy.

    Raises:
        UsageError: as for :class:`RecurrentConfig`.
    """

    characters: Annotated[int, Field(ge=0, le=1 << 16)] = 0
    """How many different characters there are to copy; 0 for what suits the recipe (the paper does
    not say)."""
    phases: Literal["random", "same"] = "random"
    """Where in their episode the rows begin: each at its own step, or all at the first."""
    threshold: Annotated[float, Field(gt=0)] = 0.15
    """Bits: a level is solved when the average error of a character is below that."""
    level_every: Annotated[int, Field(ge=1)] = 50
    """Steps between checks of the level, which wait for the device; the last comes at the end."""

    @field_validator("characters")
    @classmethod
    def _more_than_one(cls, value: int) -> int:
        if value == 1:
            raise ValueError("there is nothing to remember of one character; expected 2 or more")
        return value


class EpisodeTrainer(Trainer):
    """Trains one network on one of the two tasks by one method.

    Every ``level_every`` steps, and at the end, it looks whether the level is solved, and there
    alone (and at evaluations and checkpoints) waits for the device.

    Args:
        task: which of the two.
        config: all settings, settled.
        device: where it trains.
    """

    def __init__(self, task: Task, config: EpisodeConfig, device: torch.device) -> None:
        self.config = config
        self.curriculum = Curriculum(task, config.threshold)
        stream = EpisodeStream(
            task, config.characters, config.batch_size, config.seed, config.phases, device
        )
        self.blocks = Blocks(stream, config.unroll, config.level_every)
        self.learner = Learner(config, stream.channels, stream.classes, device)
        # Of all that counts, and of what counts at the present level: see Chunk.weights.
        self._all = Averages(self.learner.totals, 0)
        self._current = Averages(self.learner.totals, 1)

    @property
    def chance(self) -> dict[str, float]:
        """The bits of whoever thinks everything that can be written equally likely."""
        return {"train_bits": math.log2(self.blocks.stream.classes)}

    @property
    def samples(self) -> int:
        """Characters that all rows have read, those without meaning among them."""
        return self.step * self.config.consumed

    def advance(self) -> None:
        """One training step, and at the end of a block, or of the run, the level's check."""
        self.learner.learn(self.blocks.next(), self.step)
        self.step += 1
        if self.blocks.is_used_up or self.step == self.config.iterations:
            self._check_level()

    def _check_level(self) -> None:
        window = self._current.look()
        if window.number >= self.curriculum.needed(self.config.batch_size):
            self._current.restart(window)
            if self.curriculum.decide(window.mean, self.samples):
                self.blocks.stream.level = self.curriculum.level

    def evaluate(self) -> dict[str, float]:
        """How training goes: errors in bits per character, and the level.

        Returns:
            ``train_bits``, the average error since the last evaluation, of all that counts;
            ``level_bits``, that of the level's last check; ``n``, ``r`` and ``task_length`` of the
            present level; ``solved_length``; ``samples``; and :meth:`Learner.measured`.

        Raises:
            NonFiniteError: training has diverged.
        """
        window = self._all.look()
        if not math.isfinite(window.bits):
            raise NonFiniteError(f"the training error is {window.bits} bits")
        self._all.restart(window)
        level = self.curriculum.level
        return {
            "train_bits": window.mean,
            "level_bits": self.curriculum.error,
            "n": level.n,
            "r": level.r,
            "task_length": level.task_length,
            "solved_length": self.curriculum.solved_length,
            "samples": self.samples,
            **self.learner.measured(),
        }

    def summary(self) -> dict[str, Any]:
        """What the run's summary says besides the last evaluation: the history of levels.

        ``levels`` holds, for each solved one, the samples seen until then and T_task (fig. 17).
        """
        return {"levels": self.curriculum.state_dict()["history"]}

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on.

        Raises:
            NonFiniteError: training has diverged.
        """
        return {
            "step": self.step,
            "learner": self.learner.state_dict(),
            "blocks": self.blocks.state_dict(),
            "curriculum": self.curriculum.state_dict(),
            "windows": [self._all.state(), self._current.state()],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to the moment of :meth:`state_dict`."""
        self.step = state["step"]
        self.learner.load_state_dict(state["learner"])
        self.blocks.load_state_dict(state["blocks"])
        self.curriculum.load_state_dict(state["curriculum"])
        for window, kept in zip((self._all, self._current), state["windows"], strict=True):
            window.restore(kept)


@dataclass(frozen=True, kw_only=True)
class Copying(RecurrentExperiment[EpisodeConfig, None]):
    """One of the two tasks.

    Attributes:
        task: which.
    """

    metrics: ClassVar = (
        Metric(
            "solved_length",
            "Longest length solved",
            0,
            "solved length {:.0f}",
            outcome="longest solved length {:.0f}",
        ),
        TRAIN_BITS,
        *OF_ANY,
        Metric("task_length", progress="task length {:.0f}"),
        Metric("level_bits"),
        Metric("n"),
        Metric("r"),
    )
    charts: ClassVar = (
        Axis(
            "solved_length",
            "Longest length solved",
            "T_task",
            limits=(0, 1),
            over="samples",
            stepped=True,
        ),
        TRAINING,
        EXPLAINED,
    )

    task: Task

    def memory(self, config: EpisodeConfig) -> int:
        """About how many bytes training needs."""
        symbols = config.characters + 2
        # Of each step of a block a dozen whole numbers besides what is read.
        block = config.level_every * config.consumed * (symbols + 24)
        return self.bytes_for(config, symbols) + 4 * block

    def load(self, root: Path | None, device: torch.device) -> None:
        """Nothing: the episodes are made up."""

    def build(self, config: EpisodeConfig, data: None, device: torch.device) -> EpisodeTrainer:
        """What trains it."""
        return EpisodeTrainer(self.task, config, device)


_COPYING = {"units": 256, "characters": 8}
"""The paper's sizes; that it has 8 characters is our guess."""

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Copying(
            "copy",
            "Table 1, Copy; figure 17, top",
            "copy",
            EpisodeConfig(),
            task=Task(repeats=False),
            suits={"samples": 3_000_000, "characters": 2, "units": 128},
            by_method={"bptt": {"learning_rate": 2e-3}},
            sizes=_COPYING,
        ),
        Copying(
            "repeat-copy",
            "Table 1, Repeat Copy; figure 4, left; figure 17, bottom",
            "repeat-copy",
            EpisodeConfig(),
            task=Task(repeats=True),
            suits={"samples": 3_000_000, "characters": 2},
            sizes=_COPYING,
        ),
    )
}
