"""Feed-forward networks of the paper (D.1), the interfaces in them, and one training step.

All that a step does it does on the device, so that it can be recorded and replayed there: rates
are tensors, and nothing is read back.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

import synthgrad as sg
from synthgrad.feedback import MLP, Conv, Feedback, Regression, Stale, Zero
from synthgrad.inputs import SyntheticInput
from synthgrad.lab.errors import UsageError
from synthgrad.lab.experiments.rates import Rates, adam


def hidden_name(position: int) -> str:
    """The name of a hidden layer, counted from 1."""
    return f"hidden{position}"


def fcn(inputs: int, units: int, layers: int, classes: int) -> nn.Sequential:
    """A fully connected network of ``layers`` layers, as the paper counts.

    A hidden layer is linear, batch norm, ReLU; the last layer is the linear classifier. Takes
    images of any shape with ``inputs`` values and returns logits ``"batch classes"``.
    """
    parts: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    width = inputs
    for position in range(1, layers):
        parts[hidden_name(position)] = nn.Sequential(
            nn.Linear(width, units), nn.BatchNorm1d(units), nn.ReLU()
        )
        width = units
    parts["classifier"] = nn.Linear(width, classes)
    return nn.Sequential(parts)


def cnn(image: Sequence[int], filters: int, layers: int, classes: int) -> nn.Sequential:
    """A convolutional network of ``layers`` layers, as the paper counts.

    A hidden layer is a 5x5 convolution that keeps the resolution, batch norm, ReLU, and 3x3
    pooling: of the maximum in the first layer, of the average in the others. The last layer is the
    linear classifier. The pooling belongs to its layer, so that an interface behind the layer
    carries the pooled activations.

    The paper gives the pooling's size and not its stride. Ours is 2, with a padding of 1, so each
    hidden layer halves the resolution, rounded up (28, 14, 7, 4 on MNIST). The padding does not
    count in the averages.

    Args:
        image: channels, height and width of the images.
        filters: in each hidden layer.
        layers: the hidden layers and the classifier.
        classes: the width of the logits, ``"batch classes"``.
    """
    width, *size = image
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for position in range(1, layers):
        parts[hidden_name(position)] = nn.Sequential(
            # Batch norm subtracts the mean, so a bias before it would have no effect.
            nn.Conv2d(width, filters, 5, padding="same", bias=False),
            nn.BatchNorm2d(filters),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1)
            if position == 1
            else nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False),
        )
        width, size = filters, [(side + 1) // 2 for side in size]
    parts["flatten"] = nn.Flatten()
    parts["classifier"] = nn.Linear(width * size[0] * size[1], classes)
    return nn.Sequential(parts)


@dataclass(frozen=True)
class WarmUp:
    """``lambda_`` as a function of the step: 1 for the first ``steps``, then ``after``."""

    steps: int
    after: float

    def __call__(self, step: int) -> float:
        """The weight at a step."""
        return 1.0 if step < self.steps else self.after


def put_in(
    model: nn.Module,
    method: str,
    positions: Sequence[int],
    example: Tensor,
    *,
    lambda_: float | WarmUp,
    hidden: Sequence[int],
    classes: int,
    decay: float,
    input_hidden: Sequence[int] | None,
) -> nn.Module:
    """Puts the interfaces of a method into a network.

    Synthetic gradients are those of an MLP for a message of features, and of a convolutional
    model for a message of channels.

    Args:
        model: one of those above.
        method: what error comes back: "none", "stale", "dni" or "cdni".
        positions: the hidden layers with an interface behind them, counted from 1.
        example: a few inputs, to infer sizes from.
        lambda_: the weight of the real error.
        hidden: of the feedback models.
        classes: the labels that they see; 0 where they see none.
        decay: of the stale average.
        input_hidden: of the models that predict inputs; None without them.
    """
    if not positions:
        return model

    def make(h: Tensor) -> Feedback:
        if method == "none":
            return Zero()
        if method == "stale":
            return Stale(decay)
        if h.ndim == 4:
            return Conv(h.shape[1], hidden=hidden, context=classes)
        return MLP(h.shape[1], hidden=hidden, context=classes)

    def make_input(x: Tensor, h: Tensor) -> Regression:
        if h.ndim != 2:
            raise UsageError(
                "--unlock full predicts messages of features, as those of a fully connected "
                f"network; this network's are {tuple(h.shape[1:])} for an example"
            )
        assert input_hidden is not None
        return SyntheticInput(x[0].numel(), h.shape[1], input_hidden)

    return sg.decouple(
        model,
        [hidden_name(position) for position in positions],
        make,
        lambda_=lambda_,
        example_inputs=example,
        inputs=None if input_hidden is None else make_input,
    )


def loss_fn(output: Tensor, y: Tensor) -> Tensor:
    """The mean cross entropy of logits ``"batch classes"``, given labels ``"batch"``."""
    return F.cross_entropy(output, y)


class Inline:
    """The plain training loop, around a model that holds interfaces."""

    def __init__(self, model: nn.Module, rates: Rates) -> None:
        self.model = model
        self.rates = rates
        groups = [
            {"params": sg.network_parameters(model)},
            {"params": sg.feedback_parameters(model), "lr": rates.feedback.tensor},
        ]
        self.optimizer = adam([group for group in groups if group["params"]], rates.own)

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """Updates everything once; returns the loss, detached."""
        self.optimizer.zero_grad()
        with sg.context(y):
            loss = loss_fn(self.model(x), y)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's state."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores it."""
        self.optimizer.load_state_dict(state)


Schedule = sg.Unlocked | sg.Sporadic | sg.FullyUnlocked


class Scheduled:
    """A schedule's steps: one layer after the other, or by chance."""

    def __init__(self, schedule: Schedule, rates: Rates) -> None:
        self.schedule = schedule
        self.rates = rates

    def step(self, x: Tensor, y: Tensor) -> Tensor | None:
        """One step; returns the loss, detached, or None where the last layer was busy."""
        return self.schedule.step(x, partial(loss_fn, y=y), y)

    def state_dict(self) -> dict[str, Any]:
        """The optimisers' states, and how often each was used where that is by chance."""
        return self.schedule.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores it."""
        self.schedule.load_state_dict(state)


def stepper(model: nn.Module, rates: Rates, unlock: str, p_update: float) -> Inline | Scheduled:
    """What makes a training step.

    Args:
        model: the network, with its interfaces.
        rates: of everything that is fitted.
        unlock: "no", "update" or "full".
        p_update: the probability that a layer is updated, or with "full" that it runs.
    """
    own, feedback, inputs = (
        partial(adam, rate=rate) for rate in (rates.own, rates.feedback, rates.inputs)
    )
    if unlock == "full":
        schedule = sg.FullyUnlocked(
            model, own, p_update, feedback_optimizer=feedback, input_optimizer=inputs
        )
    elif p_update < 1:
        schedule = sg.Sporadic(model, own, p_update, feedback_optimizer=feedback)
    elif unlock == "update":
        same = rates.own.initial == rates.feedback.initial
        schedule = sg.Unlocked(model, own, feedback_optimizer=None if same else feedback)
    else:
        return Inline(model, rates)
    return Scheduled(schedule, rates)
