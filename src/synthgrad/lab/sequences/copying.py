"""The trainer of Copy and Repeat Copy: endless episodes that grow longer as they are solved."""

from __future__ import annotations

import math
from typing import Any

import torch

from synthgrad.errors import NonFiniteError
from synthgrad.lab.sequences.averages import Averages
from synthgrad.lab.sequences.blocks import Blocks
from synthgrad.lab.sequences.config import EpisodeConfig
from synthgrad.lab.sequences.episodes import EpisodeStream
from synthgrad.lab.sequences.learner import Learner
from synthgrad.lab.sequences.levels import Curriculum, Task


class EpisodeTrainer:
    """Trains one network on one of the two tasks by one method.

    Every ``level_every`` steps, and at the end, it looks whether the level is solved, and there
    alone (and at evaluations and checkpoints) waits for the device.

    Args:
        task: which of the two.
        config: all settings, settled.
        device: where it trains.

    Attributes:
        step: training steps done.
        finished: whether there is nothing left to do; never, for the levels have no end.
    """

    finished = False

    def __init__(self, task: Task, config: EpisodeConfig, device: torch.device) -> None:
        self.config = config
        self.curriculum = Curriculum(task, config.threshold)
        stream = EpisodeStream(
            task, config.characters, config.batch_size, config.seed, config.phases, device
        )
        self.blocks = Blocks(stream, config.unroll, config.level_every)
        self.learner = Learner(config, stream.channels, stream.classes, device)
        self.step = 0
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
