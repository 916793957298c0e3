"""The recipe ``multi-network``: figure 5."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from synthgrad.lab.data import DataSet, load
from synthgrad.lab.errors import UsageError
from synthgrad.lab.multinetwork.config import MultiNetworkConfig
from synthgrad.lab.multinetwork.trainer import MultiNetworkTrainer
from synthgrad.lab.runs.memory import A_PARAMETER, BASE, widths

PAPER: Mapping[str, Any] = {"iterations": 100_000, "learning_rate": 1e-5}
"""D.3; the figure's curves are stable after 100k steps."""

SCALE = 10.0
"""What the paper's synthetic gradient is multiplied by (D.3)."""


@dataclass(frozen=True)
class MultiNetworkRecipe:
    """Two networks on one stream of images, and the settings that suit them.

    Attributes:
        name: as on the command line.
        stands_for: the table or figure of the paper.
        data: the data set's name.
        defaults: the settings.
        iterations: what suits this recipe.
        suited: what suits a method: any of ``learning_rate``,
            ``feedback_learning_rate``, ``scale``.
    """

    name: str
    stands_for: str
    data: str
    defaults: MultiNetworkConfig
    iterations: int
    suited: Mapping[str, Mapping[str, Any]]

    @property
    def paper(self) -> Mapping[str, Any]:
        """The paper's iterations and rate."""
        return PAPER

    def settle(self, config: MultiNetworkConfig) -> MultiNetworkConfig:
        """The configuration with nothing left open: what was, is what suits its method.

        Raises:
            UsageError: it is that of another kind of recipe.
        """
        if not isinstance(config, MultiNetworkConfig):
            raise UsageError(
                f"the recipe {self.name} takes a MultiNetworkConfig, got a {type(config).__name__}"
            )
        if config.schedule == "paper":
            suited: dict[str, Any] = dict(PAPER)
        else:
            suited = {"iterations": self.iterations, **self.suited[config.method]}
        return config.filled({"scale": SCALE, **suited})

    def memory(self, config: MultiNetworkConfig) -> int:
        """About how many bytes training needs."""
        units, ticks, batch = config.units, config.ticks, config.batch_size
        hidden = (units,) if config.feedback_hidden is None else config.feedback_hidden
        parameters = units * (784 + 18 * units + config.unroll + ticks)
        parameters += widths((units, *hidden, units))
        kept = 20 * config.unroll * units  # the statistics of each step
        if config.method == "backprop":  # of T² ticks, rather than of T
            seen = ticks * batch * 30 * units
        else:
            seen = config.unroll * batch * 30 * units
        return BASE + A_PARAMETER * parameters + 4 * (seen + 2 * ticks * batch * 784 + 3 * kept)

    def load(self, root: Path | None, device: torch.device) -> DataSet:
        """The digits, on the device.

        Raises:
            DataError: they are damaged, or cannot be had.
        """
        return load(self.data, root=root, device=device)

    def trainer(
        self, config: MultiNetworkConfig, data: DataSet, device: torch.device
    ) -> MultiNetworkTrainer:
        """What trains them; ``device`` is that of the data.

        Raises:
            UsageError: there are too few images for a batch, or to test on.
        """
        config = self.settle(config)
        room, needed = len(data.train_x) - config.validation, config.batch_size * config.ticks
        if needed > room:
            raise UsageError(
                f"--batch-size: {config.batch_size} rows see {needed} digits in a step of "
                f"{config.ticks} ticks, more than the {room} training images"
            )
        least = min(n for n in (len(data.test_x), config.validation) if n)
        if least < config.ticks:
            raise UsageError(
                f"--unroll: a test takes {config.ticks} digits a row for T = {config.unroll}, and "
                f"there are only {least}"
            )
        return MultiNetworkTrainer(config, data)


# Chosen on 5,000 training images held out, after 1,500 iterations. The networks are a quarter as
# wide as the paper's (docs/log.md).
MULTI_NETWORK = MultiNetworkRecipe(
    "multi-network",
    "Figure 5",
    "mnist",
    MultiNetworkConfig(),
    2000,
    {
        "backprop": {"learning_rate": 2e-3},
        "none": {"learning_rate": 1e-3},
        "dni": {"learning_rate": 3e-4, "feedback_learning_rate": 1e-3},
        "cdni": {"learning_rate": 1e-3, "scale": 3.0},
    },
)
