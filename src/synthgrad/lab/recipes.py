"""The recipes: complete experiments, each with what it stands for in the paper."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from synthgrad.lab.config import FeedForwardConfig
from synthgrad.lab.data import DataSet
from synthgrad.lab.models import fcn


@dataclass(frozen=True)
class Recipe:
    """A data set, a network, and the settings that suit them.

    Attributes:
        name: as on the command line.
        stands_for: the table or figure of the paper.
        data: the data set's name.
        network: builds the network for a configuration and a data set.
        defaults: the settings.
        feedback_hidden: hidden layers of the paper's unconditional feedback model.
    """

    name: str
    stands_for: str
    data: str
    network: Callable[[FeedForwardConfig, DataSet], nn.Module]
    defaults: FeedForwardConfig
    feedback_hidden: tuple[int, ...]


def _fcn(config: FeedForwardConfig, data: DataSet) -> nn.Module:
    return fcn(data.train_x[0].numel(), config.units, config.layers, data.classes)


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "digits-fcn",
            "the main job in small, on scikit-learn's digits (not in the paper)",
            "digits",
            _fcn,
            # Narrow, so that random hidden layers alone (no feedback) are not enough; and so small
            # that a second thread would only wait.
            FeedForwardConfig(units=64, iterations=2000, eval_every=100, threads=1),
            (256, 256),
        ),
        Recipe(
            "mnist-fcn",
            "Table 2, MNIST FCN; figures 11 to 14",
            "mnist",
            _fcn,
            FeedForwardConfig(),
            (1024, 1024),
        ),
        Recipe(
            "fashion-fcn",
            "Table 2's FCN on Fashion-MNIST (not in the paper)",
            "fashion-mnist",
            _fcn,
            FeedForwardConfig(),
            (1024, 1024),
        ),
    )
}
