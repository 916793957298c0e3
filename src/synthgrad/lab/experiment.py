"""The protocol of experiments: settings, metrics, methods, and a trainer that steps and evaluates.

A new kind of experiment is one file in :mod:`synthgrad.lab.experiments`, with a class of settings,
an :class:`Experiment` and a :class:`Trainer`, and one row in that package's ``__init__``. The
command line, the loop of a run, its folder and the report know nothing else of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch

from synthgrad.lab.errors import UsageError
from synthgrad.lab.settings import Settings


@dataclass(frozen=True)
class Metric:
    """A number that a run logs, or that its summary holds.

    Attributes:
        name: in ``metrics.jsonl`` and ``summary.json``. Where it begins with ``train_loss`` or
            ``train_bits``, a run that ends with an absurdly large one has diverged.
        title: of its column in a results table, with the unit; empty where it has none.
        digits: behind the point; None for three that count.
        progress: how a line of progress says it, as in "loss {:.4f}"; empty where it does not.
        outcome: how one line says what a finished run came to; empty where another metric does.
    """

    name: str
    title: str = ""
    digits: int | None = None
    progress: str = ""
    outcome: str = ""


@dataclass(frozen=True)
class Axis:
    """What a chart's vertical axis shows.

    Attributes:
        metric: the metric's name, or its last part.
        title: above the chart.
        label: beside the axis, with the unit.
        reference: a value to draw a thin line at, such as that of pure chance.
        limits: what the axis shows at least, of a metric with a fixed range. Without them it
            starts at zero, or is logarithmic where the range is wide.
        over: what the horizontal axis shows: training steps, or another metric of the same runs.
        from_zero: off where the differences of interest are small beside the values.
        stepped: whether a value holds until the next.
    """

    metric: str
    title: str
    label: str
    reference: float | None = None
    limits: tuple[float, float] | None = None
    over: str = "step"
    from_zero: bool = True
    stepped: bool = False

    @property
    def along(self) -> str:
        """What the horizontal axis shows, in words."""
        return {"step": "training steps", "samples": "characters read"}.get(self.over, self.over)


class Trainer(ABC):
    """Trains one network, or several, by one method.

    Attributes:
        step: training steps done.
    """

    step: int = 0

    @property
    def finished(self) -> bool:
        """Whether training should end before its last iteration."""
        return False

    @property
    @abstractmethod
    def samples(self) -> int:
        """Examples, or characters, seen so far."""

    @property
    @abstractmethod
    def chance(self) -> Mapping[str, float]:
        """By metric, the error of whoever guesses; of metrics by which a run is judged."""

    @abstractmethod
    def advance(self) -> None:
        """One training step."""

    @abstractmethod
    def evaluate(self) -> dict[str, float]:
        """What is logged, in the order in which a line of progress says it."""

    def summary(self) -> dict[str, Any]:
        """What the summary's metrics hold besides the last evaluation."""
        return {}

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to the moment of :meth:`state_dict`."""


Config = TypeVar("Config", bound=Settings)
Data = TypeVar("Data")


@dataclass(frozen=True)
class Experiment(ABC, Generic[Config, Data]):
    """A recipe: something to train, and the settings that suit it.

    The settings hold at least ``method``, ``iterations``, ``schedule``, ``eval_every``,
    ``checkpoint_every``, ``seed``, ``device`` and ``threads``, which the loop of a run reads.

    Attributes:
        metrics: what a run logs, in the order of a table's columns.
        charts: what a report draws, in its order.
        methods: what comes back by each method, in a line; in the order of a table's rows.
        stops_early: whether evaluations decide when training stops.
        name: as on the command line.
        stands_for: the table or figure of the paper.
        data: what it is trained on.
        defaults: the settings.
    """

    metrics: ClassVar[tuple[Metric, ...]]
    charts: ClassVar[tuple[Axis, ...]]
    methods: ClassVar[Mapping[str, str]]
    stops_early: ClassVar[bool] = False

    name: str
    stands_for: str
    data: str
    defaults: Config

    @property
    @abstractmethod
    def paper(self) -> Mapping[str, Any]:
        """The paper's settings, its iterations among them."""

    @abstractmethod
    def suited(self, config: Config) -> Mapping[str, Any]:
        """What suits a configuration's method and schedule, for :meth:`Settings.filled`."""

    def settle(self, config: Config) -> Config:
        """The configuration with nothing left open: what was, is what suits it.

        Raises:
            UsageError: it is that of another kind of experiment; or its settings disagree.
        """
        if not isinstance(config, type(self.defaults)):
            raise UsageError(
                f"the recipe {self.name} takes a {type(self.defaults).__name__}, got a "
                f"{type(config).__name__}"
            )
        return config.filled(self.suited(config))

    @abstractmethod
    def memory(self, config: Config) -> int:
        """About how many bytes training needs, of settled settings."""

    @abstractmethod
    def load(self, root: Path | None, device: torch.device) -> Data:
        """The data, on the device.

        Raises:
            DataError: it is damaged, or cannot be had.
        """

    @abstractmethod
    def build(self, config: Config, data: Data, device: torch.device) -> Trainer:
        """What trains it by settled settings.

        Raises:
            UsageError: a setting does not fit the data.
        """

    def trainer(self, config: Config, data: Data, device: torch.device) -> Trainer:
        """What trains it by settings of which some may be open.

        Raises:
            UsageError: as for :meth:`settle` and :meth:`build`.
        """
        return self.build(self.settle(config), data, device)
