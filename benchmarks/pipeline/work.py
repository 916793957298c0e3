"""What the pipelines of the benchmark train: the same stages, batches and optimiser for all."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from synthgrad.distributed import cut
from synthgrad.errors import ArgumentError
from synthgrad.feedback import Feedback, Linear
from synthgrad.lab.data.batches import Batches
from synthgrad.lab.experiments.image_recipes import RECIPES
from synthgrad.lab.experiments.rates import Rate, adam, rate_factor
from synthgrad.lab.stages.build import evaluation_batches
from synthgrad.schedule import MakeOptimizer

CLASSES = 10
_FRESH = 50
"""Random batches, so that a network does not learn one by heart (its errors would be denormal)."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is trained, in a form that can be sent to another process.

    Attributes:
        kind: "wide": fully connected stages of equal work on random examples; "mnist": the recipe
            ``mnist-fcn``; "sleep": stages whose work is to sleep, for more machines than cores.
        batch: examples a step.
        width: of a wide stage's hidden layers.
        message: features of a wide or sleeping stage's message.
        depth: hidden layers of a wide stage; layers of the recipe, as the paper counts.
        sleep: seconds that a step of a sleeping stage takes.
        pace: seconds that a step of any stage takes at least, as if its work were larger.
        iterations: over which the rate falls.
        seed: of the weights and the order of the examples.
        recipe: which one "mnist" is; another feed-forward one serves tests.
        data_root: where its data are.
    """

    kind: Literal["wide", "mnist", "sleep"]
    batch: int = 256
    width: int = 512
    message: int = 256
    depth: int = 4
    sleep: float = 0.02
    pace: float = 0.0
    iterations: int = 0
    seed: int = 0
    recipe: str = "mnist-fcn"
    data_root: str | None = None


@dataclass
class Task:
    """The same in a form that can be trained.

    Attributes:
        segments: the stages; together they are the network.
        feedbacks: the feedback model behind each but the last.
        batches: the examples and labels of a step.
        optimizer: makes one.
        before_step: sets the rate of a step, and keeps the pace.
        evaluation: batches to evaluate on; none without a test set.
    """

    segments: Sequence[nn.Module]
    feedbacks: list[Feedback]
    batches: Callable[[int], tuple[Tensor, Tensor]]
    optimizer: MakeOptimizer
    before_step: Callable[[int], None]
    evaluation: Callable[[], Iterable[tuple[Tensor, Tensor]]] | None = None


def build(work: Work, stages: int) -> Task:
    """The same for every process that asks for the same.

    Raises:
        ArgumentError: the network has fewer layers than there are stages.
    """
    torch.manual_seed(work.seed)
    rate = Rate(1e-3 if work.kind == "mnist" else 1e-4, torch.device("cpu"))
    evaluation = None
    if work.kind == "mnist":
        recipe = RECIPES[work.recipe]
        config = recipe.defaults.changed(layers=work.depth, seed=work.seed)
        data = recipe.load(Path(work.data_root) if work.data_root else None, torch.device("cpu"))
        segments = _split(recipe.network(config, data), stages)
        batches = Batches(data.train_x, data.train_y, work.batch, work.seed).at
        evaluation = partial(evaluation_batches, data, work.batch)
        widths = [config.units] * (stages - 1)
    else:
        make = _wide if work.kind == "wide" else _sleeping
        segments = [make(work, last=i == stages - 1) for i in range(stages)]
        examples = torch.rand(_FRESH * work.batch, work.message)
        labels = torch.randint(CLASSES, (len(examples),))
        batches = Batches(examples, labels, work.batch, work.seed).at
        widths = [work.message] * (stages - 1)
    feedbacks: list[Feedback] = [Linear(width, context=CLASSES) for width in widths]
    before = _Before(rate, work)
    return Task(segments, feedbacks, batches, partial(adam, rate=rate), before, evaluation)


class _Before:
    def __init__(self, rate: Rate, work: Work) -> None:
        self._rate, self._work = rate, work
        self._next = 0.0

    def __call__(self, step: int) -> None:
        if self._work.iterations:
            self._rate.set(rate_factor(step, self._work.iterations))
        if self._work.pace:
            time.sleep(max(0.0, self._next - time.monotonic()))
            self._next = time.monotonic() + self._work.pace


class Sleeper(nn.Module):
    """Passes on its input after a while."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def forward(self, x: Tensor) -> Tensor:
        """Sleeps; in evaluation it does not."""
        if self.training:
            time.sleep(self.seconds)
        return x


def _wide(work: Work, *, last: bool) -> nn.Module:
    layers: list[nn.Module] = []
    width = work.message
    for _ in range(work.depth):
        layers += [nn.Linear(width, work.width), nn.BatchNorm1d(work.width), nn.ReLU()]
        width = work.width
    layers += [nn.Linear(width, work.message), nn.BatchNorm1d(work.message), nn.ReLU()]
    if last:
        layers.append(nn.Linear(work.message, CLASSES))
    return nn.Sequential(*layers)


def _sleeping(work: Work, *, last: bool) -> nn.Module:
    width = CLASSES if last else work.message
    return nn.Sequential(Sleeper(work.sleep), nn.Linear(work.message, width))


def _split(network: nn.Module, stages: int) -> list[nn.Sequential]:
    """Hidden layers and the classifier, as evenly as they go; a flattening belongs to the first."""
    assert isinstance(network, nn.Sequential)
    layers = sum(any(True for _ in child.parameters()) for child in network)
    if stages > layers:
        raise ArgumentError(f"{layers} layers cannot be split into {stages} stages")
    ends = [len(network) - layers + layers * (i + 1) // stages for i in range(stages)]
    return cut(network, [b - a for a, b in pairwise([0, *ends])])
