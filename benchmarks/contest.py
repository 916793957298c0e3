"""Times the trainer at work by several methods, and what it does besides their arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks.examples import examples
from benchmarks.throughput import Peak, operations
from benchmarks.timing import low, timed
from synthgrad.feedback.encode import encode
from synthgrad.lab.data.batches import Batches
from synthgrad.lab.experiments.images import FeedForwardConfig, ImageExperiment, ImageTrainer

WARM_UP = 6
"""Steps before any is timed; enough to capture a CUDA graph, too."""
TURN = 0.05
"""Seconds of a method's turn, at the least; one step is a turn at the least."""
ROUNDS = (8, 60)
"""The fewest and the most rounds, in each of which every method has its turn."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass
class Contestant:
    """A method that is timed.

    Attributes:
        config: its settings.
        count: operations of matrix products and convolutions in a step.
        times: seconds a step, by round.
        extras: by part, seconds a step of what is not the method's arithmetic, by round.
        evaluation: seconds of one evaluation.
    """

    config: FeedForwardConfig
    count: int
    times: list[float] = field(default_factory=list)
    extras: dict[str, list[float]] = field(default_factory=dict)
    evaluation: float = 0.0

    @property
    def seconds(self) -> float:
        """Of a step."""
        return low(self.times)

    def share(self, part: str) -> float:
        """Of a step's time that a part takes; 0 for what it does without."""
        return low(self.extras[part]) / self.seconds if part in self.extras else 0.0

    @property
    def together(self) -> float:
        """What all parts take of a step's time."""
        return sum(map(self.share, self.extras))

    @property
    def evaluating(self) -> float:
        """The time of evaluations as a share of that of the steps between them."""
        return self.evaluation / (self.config.eval_every * self.seconds)


@dataclass(frozen=True)
class Result:
    """What was measured of one recipe.

    Attributes:
        contestants: by method.
        peak: operations a second of a large matrix product, timed in the same rounds.
        real: whether the examples are.
    """

    contestants: dict[str, Contestant]
    peak: float
    real: bool


def contest(
    recipe: ImageExperiment,
    methods: Sequence[str],
    device: torch.device,
    *,
    precision: str = "float32",
    data_root: Path | None = None,
    rounds: tuple[int, int] = ROUNDS,
) -> Result:
    """Times the methods in turns, so that what disturbs the machine disturbs all of them.

    Args:
        recipe: what is trained, as it stands, but for the warm-up of lambda, which is left out.
        methods: which.
        device: where.
        precision: as in :class:`synthgrad.lab.experiments.images.FeedForwardConfig`.
        data_root: where the data sets are.
        rounds: the fewest and the most.
    """
    data, real = examples(recipe.data, data_root, device)
    peak = Peak(device, DTYPES[precision])
    work = {}
    for method in methods:
        config = recipe.defaults.changed(method=method, warmup=0, precision=precision)
        work[method] = _Work(
            recipe.build(recipe.settle(config), data, device), data.classes, device
        )
    together = sum(one.turn for one in work.values())
    count = int(rounds[1] * TURN * len(work) / together)
    for turn in range(min(max(count, rounds[0]), rounds[1])):
        peak.measure()
        for one in work.values():
            one.take_turn()
        for one in work.values():
            one.time_extras(turn)
    for one in work.values():
        one.contestant.evaluation = timed(one.trainer.evaluate, 1, device)
    return Result({method: one.contestant for method, one in work.items()}, peak.best, real)


class _Work:
    """A trainer between its turns."""

    def __init__(self, trainer: ImageTrainer, classes: int, device: torch.device) -> None:
        self.trainer = trainer
        self.device = device
        trainer.advance()
        # Of the second step: the first makes more than a step.
        self.contestant = Contestant(trainer.config, operations(trainer.advance))
        for _ in range(WARM_UP):
            trainer.advance()
        once = timed(trainer.advance, 1, device)
        self.steps = max(1, int(TURN / once))
        self.turn = once * self.steps
        # Of its own, since an order is kept until the next epoch.
        self.batches = Batches(*trainer.train, trainer.config.batch_size, trainer.config.seed)
        self.x, self.y = self.batches.room()
        self.batches.fill(0, self.x, self.y)
        self.loss = torch.zeros((), device=device)
        self.classes = classes

    def take_turn(self) -> None:
        """Steps, as in training."""
        self.contestant.times.append(timed(self.trainer.advance, self.steps, self.device))

    def time_extras(self, turn: int) -> None:
        """Times each part right after a step, which leaves the caches as training does."""
        batches, loss = self.batches, self.loss
        step = turn % batches.per_epoch  # of one epoch: the next one's order is a part of its own
        parts: dict[str, tuple[Callable[[], object], int]] = {
            "data": (lambda: batches.fill(step, self.x, self.y), 1),
            "shuffling": (lambda: batches.shuffled(turn), batches.per_epoch),
            "metrics": (lambda: loss.add_(loss), 1),
        }
        if self.trainer.config.method == "cdni":
            y, width = self.y, self.classes
            parts["labels"] = (lambda: encode(y, y.shape, width, torch.float32), 1)
        # On a GPU several at once, since to wait for it takes longer than one of them.
        times = 20 if self.device.type == "cuda" else 1
        for name, (part, steps) in parts.items():
            self.trainer.advance()
            seconds = timed(part, times, self.device) / steps
            self.contestant.extras.setdefault(name, []).append(seconds)
