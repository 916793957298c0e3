"""The recurrent recipes: complete experiments, each with what it stands for in the paper."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from synthgrad.lab.data.text import TextData, load_text
from synthgrad.lab.errors import UsageError
from synthgrad.lab.runnable import Trains
from synthgrad.lab.runs.memory import A_PARAMETER, BASE, widths
from synthgrad.lab.sequences.config import EpisodeConfig, RecurrentConfig, TextConfig
from synthgrad.lab.sequences.copying import EpisodeTrainer
from synthgrad.lab.sequences.language import TextTrainer
from synthgrad.lab.sequences.levels import Task

Config = TypeVar("Config", bound=RecurrentConfig)

_SYMBOLS = 50
"""Different characters of a text."""

PAPER: Mapping[str, Any] = {
    "iterations": 2_500_000,
    "learning_rate": 7e-5,
    "batch_size": 256,
    "scale": 0.1,
    "feedback_history": 0,
    "auxiliary_into_core": "all",
    "clip": 0.0,
}
"""Of every recurrent network (D.2); on the Penn Treebank early stopping comes first."""


@dataclass(frozen=True)
class SequenceRecipe:
    """A task for a recurrent network, and the settings that suit it.

    Attributes:
        name: as on the command line.
        stands_for: the table or figure of the paper.
        data: the text's name, or the name of the task whose episodes are made up.
        defaults: the settings.
        task: which of the tasks of episodes; None for a text.
        suits: what is left open by the defaults, for every method: any setting whose default is 0
            or None, among them ``units``, ``batch_size`` and ``samples``.
        methods: what suits one method better.
        sizes: the paper's.
        larger_steps: whether the rates are meant for T = 2 and grow with T, since of as many
            characters longer unrolls make fewer steps: the network's with the square root of T / 2,
            at most twofold; the feedback model's with T / 2, at most 10/3-fold.
    """

    name: str
    stands_for: str
    data: str
    defaults: RecurrentConfig
    task: Task | None
    suits: Mapping[str, Any]
    methods: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    sizes: Mapping[str, Any] = field(default_factory=dict)
    larger_steps: bool = False

    @property
    def paper(self) -> Mapping[str, Any]:
        """The paper's settings."""
        return {**PAPER, **self.sizes}

    def settle(self, config: Config) -> Config:
        """The configuration with nothing left open: what was, is what suits its method.

        Raises:
            UsageError: it is that of another kind of recipe; or it has both iterations and samples,
                which disagree.
        """
        if not isinstance(config, type(self.defaults)):
            raise UsageError(
                f"the recipe {self.name} takes a {type(self.defaults).__name__}, got a "
                f"{type(config).__name__}"
            )
        if config.schedule == "paper":
            suited = dict(self.paper)
        else:
            suited = {**SUITS, **self.suits, **self.methods.get(config.method, {})}
            if self.larger_steps:
                fewer = max(config.unroll / 2, 1.0)
                suited["learning_rate"] *= min(math.sqrt(fewer), 2.0)
                suited["feedback_learning_rate"] *= min(fewer, 10 / 3)
        if config.iterations or config.samples:  # said, if only in one of the two ways
            suited["iterations"] = suited["samples"] = 0
        config = config.filled({"warmup": 0, **suited})
        return config.changed(iterations=_iterations(config))

    def memory(self, config: RecurrentConfig) -> int:
        """About how many bytes training needs."""
        units, rows = config.units, config.batch_size
        steps = rows * config.unroll
        symbols, block = _SYMBOLS, 0
        if isinstance(config, EpisodeConfig):
            symbols = config.characters + 2
            # Of each step of a block a dozen whole numbers besides what is read.
            block = config.level_every * steps * (symbols + 24)
        parameters = 4 * units * (units + symbols) + units * symbols
        values = steps * (symbols * 4 + units * 10)
        if config.method != "bptt":
            sees = units * (1 if config.feedback_sees == "output" else 2)
            history = (config.feedback_history or 0) * symbols
            hidden = (units,) if config.feedback_hidden is None else config.feedback_hidden
            parameters += widths((sees + history, *hidden, 2 * units))
            values += rows * (sees + 2 * history + 3 * sum(hidden) + 6 * units)
            if config.method == "dni-aux":
                ahead = hidden if config.auxiliary_hidden is None else config.auxiliary_hidden
                parameters += widths((units, *ahead, 2 * units))
                values += steps * (2 * history + 3 * sum(ahead) + 16 * units)
        return BASE + A_PARAMETER * parameters + 4 * (values + block + symbols**2)

    def load(self, root: str | os.PathLike[str] | None, device: torch.device) -> TextData | None:
        """The data, on the device; None where it is made up.

        Raises:
            DataError: it is damaged, or cannot be had.
        """
        return load_text(self.data, root, device) if self.task is None else None

    def trainer(
        self, config: RecurrentConfig, data: TextData | None, device: torch.device
    ) -> Trains:
        """What trains it.

        Args:
            config: settled here first, if it is not.
            data: from :meth:`load`.
            device: where it trains.

        Raises:
            UsageError: a setting does not fit the data or the recipe.
        """
        config = self.settle(config)
        if self.task is not None:
            assert isinstance(config, EpisodeConfig)
            return EpisodeTrainer(self.task, config, device)
        assert isinstance(config, TextConfig)
        assert data is not None
        return TextTrainer(config, data)


def _iterations(config: RecurrentConfig) -> int:
    """Of a configuration with all else settled."""
    if not config.samples:
        return config.iterations
    needed = config.iterations_for(config.samples)
    if config.iterations not in (0, needed):
        raise UsageError(
            f"--iterations and --samples are two ways to say one thing: {config.samples} samples "
            f"take {needed} iterations, got {config.iterations}"
        )
    return needed


SUITS: Mapping[str, Any] = {
    "learning_rate": 1e-3,
    "batch_size": 32,
    "units": 64,
    "scale": 0.5,
    "feedback_history": 16,
    "auxiliary_into_core": "all",
    "clip": 0.0,
}
"""What suits all recurrent networks on two cores; docs/log.md says what else was tried."""

_COPYING = {"units": 256, "characters": 8}
"""The paper's sizes; that it has 8 characters is our guess."""

SEQUENCE_RECIPES = {
    recipe.name: recipe
    for recipe in (
        SequenceRecipe(
            "copy",
            "Table 1, Copy; figure 17, top",
            "copy",
            EpisodeConfig(),
            Task(repeats=False),
            {"samples": 3_000_000, "characters": 2, "units": 128},
            {"bptt": {"learning_rate": 2e-3}},
            sizes=_COPYING,
        ),
        SequenceRecipe(
            "repeat-copy",
            "Table 1, Repeat Copy; figure 4, left; figure 17, bottom",
            "repeat-copy",
            EpisodeConfig(),
            Task(repeats=True),
            {"samples": 3_000_000, "characters": 2},
            sizes=_COPYING,
        ),
        SequenceRecipe(
            "ptb",
            "Table 1, Penn Treebank; figure 4, right; figure 16",
            "ptb",
            TextConfig(),
            None,
            {
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
