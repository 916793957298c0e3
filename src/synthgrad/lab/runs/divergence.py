"""Training that diverged: weights that are not finite, errors that end where they began."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import chain

import torch
from torch import Tensor, nn

from synthgrad.errors import NonFiniteError

STARTED_WELL = 0.5
"""Of chance: a run whose error was once below that had learned something."""
AT_CHANCE = 0.95
"""Of chance: a run whose error ends above that knows nothing."""
ABSURD = 1e4
"""No loss that falls is ever there, whatever the task: a few units are chance."""


class Watch:
    """Compares the last errors of a run with its best ones.

    Only the end counts: an error may rise for a while, as where a synthetic gradient is trusted for
    the first time, and fall again.

    Args:
        chance: by metric, the error of whoever guesses.
        best: what was best so far, where a run goes on.
    """

    def __init__(self, chance: Mapping[str, float], best: Mapping[str, float]) -> None:
        self._chance = chance
        self.best = dict(best)
        self._last: dict[str, float] = {}

    def see(self, values: Mapping[str, float]) -> None:
        """Takes note of an evaluation; what it has not measured (NaN) is as it was."""
        measured = {name: value for name, value in values.items() if not math.isnan(value)}
        self._last |= measured
        for name in self._chance.keys() & measured.keys():
            self.best[name] = min(measured[name], self.best.get(name, math.inf))

    def verdict(self) -> str:
        """What is wrong with how the run ends; empty where nothing is."""
        wrong = [
            f"{name} ends at {last:.4g}"
            for name, last in self._last.items()
            if name.startswith(("train_loss", "train_bits")) and last > ABSURD
        ]
        for name, chance in self._chance.items():
            best, last = self.best.get(name, math.inf), self._last.get(name, 0.0)
            if best < STARTED_WELL * chance and last > AT_CHANCE * chance:
                wrong.append(
                    f"{name} ends at {last:.4g}, which is chance ({chance:.4g}), after it had been "
                    f"{best:.4g}"
                )
        return "; ".join(wrong)


def check_weights(module: nn.Module) -> None:
    """Looks whether all parameters and statistics are finite; waits for the device.

    Raises:
        NonFiniteError: one is not; names it.
    """
    for name, value in chain(module.named_parameters(), module.named_buffers()):
        if not bool(value.isfinite().all()):
            raise NonFiniteError(f"{name} has NaN or infinity")


def most_common_error(y: Tensor) -> float:
    """The error, in percent, of always giving the most common of some labels."""
    return 100 * (1 - torch.bincount(y.flatten()).max().item() / y.numel())


def entropy(symbols: Tensor) -> float:
    """Bits per symbol of whoever knows how common each is, and no more."""
    p = torch.bincount(symbols.flatten()).double() / symbols.numel()
    return torch.special.entr(p).sum().item() / math.log(2)
