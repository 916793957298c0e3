"""The recipes: complete experiments, each with what it stands for in the paper."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from synthgrad.lab.config import FeedForwardConfig
from synthgrad.lab.data import DataSet, load
from synthgrad.lab.errors import UsageError
from synthgrad.lab.methods import PaperHidden
from synthgrad.lab.models import cnn, fcn
from synthgrad.lab.runs.memory import A_MODULE, A_PARAMETER, BASE, widths

if TYPE_CHECKING:
    from synthgrad.lab.trainer import Trainer


PAPER = {"iterations": 500_000, "learning_rate": 3e-5}
"""For every feed-forward network (D.1); the rate falls at 300k and 400k."""


@dataclass(frozen=True)
class Suits:
    """Settings that suit a method better than the usual ones.

    Attributes:
        method: the method.
        settings: what :meth:`Settings.filled` takes, such as ``iterations`` or ``warmup``.
        from_layers: for networks of at least so many layers.
    """

    method: str
    settings: Mapping[str, Any]
    from_layers: int = 2


@dataclass(frozen=True)
class Recipe:
    """A data set, a network, and the settings that suit them.

    Attributes:
        name: as on the command line.
        stands_for: the table or figure of the paper.
        data: the data set's name.
        network: builds the network for a configuration and a data set.
        defaults: the settings.
        feedback_hidden: hidden layers of the paper's feedback models.
        iterations: what suits this recipe.
        suited: what suits some methods better than the usual settings; later ones count more.
    """

    name: str
    stands_for: str
    data: str
    network: Callable[[FeedForwardConfig, DataSet], nn.Module]
    defaults: FeedForwardConfig
    feedback_hidden: PaperHidden
    iterations: int
    suited: Sequence[Suits] = ()

    @property
    def paper(self) -> Mapping[str, Any]:
        """The paper's iterations and rate."""
        return PAPER

    def memory(self, config: FeedForwardConfig) -> int:
        """About how many bytes training needs."""
        image, units, batch = _IMAGES[self.data], config.units, config.batch_size
        hidden = config.feedback_hidden
        if hidden is None:
            hidden = getattr(self.feedback_hidden, "cdni" if config.method == "cdni" else "dni")
        learned = len(config.positions()) if config.method in ("dni", "cdni") else 0
        between = config.layers - 2  # hidden layers that read a hidden layer
        if self.network is _fcn:
            pixels = math.prod(image)
            parameters = pixels * units + between * units**2 + units * CLASSES
            parameters += learned * widths((units, *hidden, units))
            if config.unlock == "full":
                inputs = config.input_hidden or ()
                parameters += len(config.positions()) * widths((pixels, *inputs, units))
            # Of a layer: what comes from its linear map, its normalisation and its end, with
            # their gradients; of an evaluation two at a time.
            trained = 6 * batch * units * (config.layers - 1) + batch * sum(hidden) * 4
            tested = 2 * EVAL_BATCH * max(units, pixels)
        else:
            filters = 25  # values of each
            parameters = filters * (image[0] * units + between * units**2)
            parameters += filters * learned * widths((units, *hidden, units))
            area = image[1] * image[2]
            trained = 6 * batch * units * area * 4 // 3 + batch * sum(hidden) * area
            tested = 3 * EVAL_BATCH * units * area
        modules = config.layers * A_MODULE * (2 if learned else 1)
        return BASE + A_PARAMETER * parameters + 4 * max(trained, tested) + modules

    def load(self, root: Path | None, device: torch.device) -> DataSet:
        """The data, on the device.

        Raises:
            DataError: it is damaged, or cannot be had.
        """
        return load(self.data, root=root, device=device)

    def trainer(self, config: FeedForwardConfig, data: DataSet, device: torch.device) -> Trainer:
        """What trains it; ``device`` is that of the data.

        Raises:
            UsageError: a batch is larger than the data set.
        """
        from synthgrad.lab.trainer import Trainer  # which needs recipes

        room = len(data.train_x) - config.validation
        if config.batch_size > room:
            raise UsageError(
                f"--batch-size: {config.batch_size} is more than the {room} training examples"
            )
        return Trainer(self, config, data)

    def settle(self, config: FeedForwardConfig) -> FeedForwardConfig:
        """The configuration with nothing left open: what was, is what suits its method."""
        if config.schedule == "paper":
            suited: dict[str, Any] = dict(PAPER)
            if config.unlock == "full":
                # Of inputs and of errors: "the identical architecture", with one hidden layer (3.3)
                width = self.feedback_hidden.dni[:1]
                suited |= {"feedback_hidden": width, "input_hidden": width}
                suited |= {"input_learning_rate": PAPER["learning_rate"]}
        else:
            suited = {"iterations": self.iterations, "learning_rate": 1e-3}
            if config.unlock == "full":
                suited |= _FULLY_UNLOCKED
                if config.method == "dni":
                    suited |= {"feedback_hidden": self.feedback_hidden.dni[:1]}
            for suits in self.suited:
                if config.method == suits.method and config.layers >= suits.from_layers:
                    suited |= suits.settings
        if config.waits_for_nothing:  # there is no real error to warm up with
            suited["warmup"] = 0
        return config.filled({"warmup": 0, **suited})


EVAL_BATCH = 2000
"""Images of one evaluation step."""
CLASSES = 10
_IMAGES = {
    "digits": (1, 8, 8),
    "mnist": (1, 28, 28),
    "fashion-mnist": (1, 28, 28),
    "cifar10": (3, 32, 32),
}


def _fcn(config: FeedForwardConfig, data: DataSet) -> nn.Module:
    return fcn(data.train_x[0].numel(), config.units, config.layers, data.classes)


def _cnn(config: FeedForwardConfig, data: DataSet) -> nn.Module:
    return cnn(data.train_x.shape[1:], config.units, config.layers, data.classes)


# The models that predict inputs are fitted least often and have to keep up (docs/log.md).
_FULLY_UNLOCKED: Mapping[str, Any] = {
    "iterations": 10_000,
    "learning_rate": 3e-4,
    "feedback_learning_rate": 1e-3,
    "input_learning_rate": 3e-3,
    "input_hidden": (512,),
}

_MNIST_HIDDEN = PaperHidden(dni=(1024, 1024), cdni=())

# Without the label a feedback model has to learn faster than the network, and first (docs/log.md).
_SLOW_NETWORK = Suits(
    "dni",
    {
        "iterations": 20_000,
        "learning_rate": 3e-5,
        "feedback_learning_rate": 1e-3,
        "warmup": 300,
    },
)

# A network this deep has to be slow even if its feedback models see the label.
_DEEP = Suits(
    "cdni",
    {
        "iterations": 20_000,
        "learning_rate": 3e-5,
        "feedback_learning_rate": 1e-3,
        "warmup": 1000,
    },
    from_layers=10,
)
_SLOWER = Suits(
    "dni",
    {
        "iterations": 10_000,
        "learning_rate": 1e-4,
        "feedback_learning_rate": 1e-3,
        "warmup": 200,
    },
)

# The networks and feedback models are the paper's (D.1), and so is the batch of 256. Rates and
# iterations are ours. Those of the fully connected networks were chosen on held-out images; for the
# CNNs they are a start, still to be tuned.
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
            FeedForwardConfig(units=64, eval_every=100, threads=1),
            PaperHidden(dni=(256, 256), cdni=()),
            2000,
            [Suits("dni", {"learning_rate": 3e-4, "feedback_learning_rate": 3e-3, "warmup": 50})],
        ),
        Recipe(
            "mnist-fcn",
            "Table 2, MNIST FCN; figures 7 and 11 to 14",
            "mnist",
            _fcn,
            FeedForwardConfig(),
            _MNIST_HIDDEN,
            5000,
            [_SLOW_NETWORK, _DEEP],
        ),
        Recipe(
            "mnist-cnn",
            "Table 2, MNIST CNN; figure 13",
            "mnist",
            _cnn,
            FeedForwardConfig(units=64),
            PaperHidden(dni=(64, 64), cdni=(64, 64)),
            2000,
        ),
        Recipe(
            "fashion-fcn",
            "Table 2's FCN on Fashion-MNIST (not in the paper)",
            "fashion-mnist",
            _fcn,
            FeedForwardConfig(),
            _MNIST_HIDDEN,
            5000,
            [_SLOW_NETWORK],
        ),
        Recipe(
            "cifar10-fcn",
            "Table 2, CIFAR-10 FCN; figure 13",
            "cifar10",
            _fcn,
            FeedForwardConfig(units=1000),
            PaperHidden(dni=(4000,), cdni=(4000,)),
            4000,
            [_SLOWER],
        ),
        Recipe(
            "cifar10-cnn",
            "Table 2, CIFAR-10 CNN; figures 13 and 15",
            "cifar10",
            _cnn,
            FeedForwardConfig(units=128),
            PaperHidden(dni=(128, 128), cdni=(128, 128)),
            2000,
        ),
    )
}
