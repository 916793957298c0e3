"""The trainer of language models by characters: early stopping, and the best model's test error."""

from __future__ import annotations

import math
import time
from typing import Any

from synthgrad.errors import NonFiniteError
from synthgrad.lab.data.text import TextData
from synthgrad.lab.errors import UsageError
from synthgrad.lab.runs.divergence import entropy
from synthgrad.lab.sequences.averages import Averages
from synthgrad.lab.sequences.bpc import bits_per_character
from synthgrad.lab.sequences.config import TextConfig
from synthgrad.lab.sequences.learner import Learner
from synthgrad.lab.sequences.reading import TextStream


class TextTrainer:
    """Trains one network on one text by one method (D.2).

    At each evaluation the validation part is measured, and the test part too where that gives a new
    best: what is reported is the test error of the best model by validation. After ``patience``
    evaluations without a new best it is finished.

    Args:
        config: all settings, settled.
        data: the text, on the device.

    Raises:
        UsageError: the text is too short for so many rows, or a row for an unroll.

    Attributes:
        step: training steps done.
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
        self.step = 0
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
