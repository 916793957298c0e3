"""What a run needs of a recipe and of its trainer, whatever is trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch


class Trains(Protocol):
    """What the loop of a run needs of a trainer."""

    step: int

    @property
    def finished(self) -> bool:
        """Whether training should end before its last iteration."""
        ...

    @property
    def samples(self) -> int:
        """Examples, or characters, seen so far."""
        ...

    @property
    def chance(self) -> Mapping[str, float]:
        """By metric, the error of whoever guesses; of metrics by which a run is judged."""
        ...

    def advance(self) -> None:
        """One training step."""

    def evaluate(self) -> dict[str, float]:
        """What is logged."""
        ...

    def summary(self) -> dict[str, Any]:
        """What the summary's metrics hold besides the last evaluation."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to the moment of ``state_dict``."""


class Runnable(Protocol):
    """A recipe, each of which has a class of settings of its own."""

    @property
    def name(self) -> str:
        """As on the command line."""
        ...

    @property
    def stands_for(self) -> str:
        """The table or figure of the paper."""
        ...

    @property
    def data(self) -> str:
        """What it is trained on."""
        ...

    @property
    def defaults(self) -> Any:
        """The settings."""
        ...

    @property
    def paper(self) -> Mapping[str, Any]:
        """The paper's iterations and rate."""
        ...

    def settle(self, config: Any) -> Any:
        """The settings with nothing left open."""
        ...

    def memory(self, config: Any) -> int:
        """About how many bytes training needs, of settled settings."""
        ...

    def load(self, root: Path | None, device: torch.device) -> Any:
        """The data, on the device."""
        ...

    def trainer(self, config: Any, data: Any, device: torch.device) -> Trains:
        """What trains it."""
        ...
