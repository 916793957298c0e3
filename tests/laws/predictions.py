"""Models of errors and models of inputs, for the suite that they share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from synthgrad.feedback import MLP, Feedback
from synthgrad.inputs import SyntheticInput
from tests.laws.feedbacks import CASES, CLASSES


@dataclass(frozen=True)
class Prediction:
    """A model, what it sees, and what it predicts."""

    make: Callable[[], Feedback]
    seen: tuple[int, ...]
    predicted: tuple[int, ...]
    conditional: bool = False
    dtype: torch.dtype = torch.float64

    def of(self, dtype: torch.dtype) -> Prediction:
        return replace(self, dtype=dtype)

    def model(self) -> Feedback:
        """One that predicts something, whatever it starts with."""
        model = self.make().to(self.dtype)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(std=0.5)
        model.observe(self.target(model))
        return model

    def sees(self) -> Tensor:
        return torch.randn(self.seen).to(self.dtype)

    def target(self, model: Feedback) -> Tensor:
        shape = self.predicted[:1] if model.fitted_to == "loss" else self.predicted
        return torch.randn(shape).to(self.dtype)

    def context(self) -> Tensor | None:
        return torch.randint(CLASSES, self.seen[:1]) if self.conditional else None


_IMAGES, MESSAGES = (4, 1, 3, 2), (4, 5)
PREDICTIONS = {
    **{
        f"error by {name}": Prediction(case.make, case.shape, case.shape, case.conditional)
        for name, case in CASES.items()
    },
    "input, linear": Prediction(lambda: SyntheticInput(6, 5, ()), (4, 6), MESSAGES),
    "input, labelled linear": Prediction(
        lambda: SyntheticInput(6, 5, (), CLASSES), (4, 6), MESSAGES, True
    ),
    "input": Prediction(lambda: SyntheticInput(6, 5, (8,)), (4, 6), MESSAGES),
    "input, labelled": Prediction(
        lambda: SyntheticInput(6, 5, (8, 7), CLASSES), (4, 6), MESSAGES, True
    ),
    "input from images": Prediction(lambda: SyntheticInput(6, 5, (8,)), _IMAGES, MESSAGES),
    "input from labelled images": Prediction(
        lambda: SyntheticInput(6, 5, (8,), CLASSES), _IMAGES, MESSAGES, True
    ),
    # Any regression of the right width will do.
    "input by an MLP": Prediction(lambda: MLP(6, (8,), out_features=5), (4, 6), MESSAGES),
}


def each(chosen: Callable[[Prediction, Feedback], bool] = lambda case, model: True):
    """A test of every model, or of those that fit."""
    return pytest.mark.parametrize(
        "case",
        [pytest.param(c, id=name) for name, c in PREDICTIONS.items() if chosen(c, c.make())],
    )
