"""Experiments with labelled images: feed-forward networks, by the methods of Table 2."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
import tyro
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format

import synthgrad as sg
from synthgrad.errors import NonFiniteError
from synthgrad.lab import experiment
from synthgrad.lab.data import DataSet, load
from synthgrad.lab.data.batches import Batches
from synthgrad.lab.errors import UsageError
from synthgrad.lab.experiment import Axis, Experiment, Metric
from synthgrad.lab.experiments.captured import CapturedStep, recorder_for
from synthgrad.lab.experiments.feed_forward import WarmUp, cnn, fcn, loss_fn, put_in, stepper
from synthgrad.lab.experiments.rates import Rates
from synthgrad.lab.runs.divergence import check_weights, most_common_error
from synthgrad.lab.runs.memory import A_MODULE, A_PARAMETER, BASE, widths
from synthgrad.lab.settings import MOST_LAYERS, MOST_THREADS, Settings

Method = Literal["backprop", "none", "dni", "cdni", "stale"]
Schedule = Literal["ours", "paper"]

_DECOUPLED = ("method", ("none", "dni", "cdni", "stale"))
_LEARNED = ("method", ("dni", "cdni"))


class FeedForwardConfig(Settings):
    """The options of a feed-forward recipe.

    Raises:
        UsageError: a value is outside its range; says which, what came and what was expected.
    """

    only_with: ClassVar[Mapping[str, tuple[str, tuple[str, ...]]]] = {
        "interfaces": _DECOUPLED,
        "lambda_": _DECOUPLED,
        "warmup": _DECOUPLED,
        "feedback_hidden": _LEARNED,
        "feedback_learning_rate": _LEARNED,
        "decay": ("method", ("stale",)),
        "input_learning_rate": ("unlock", ("full",)),
    }

    method: Method = "cdni"
    """What error comes back between layers: the real one, none, a synthetic gradient (that also
    sees the label: cdni), or a stale average."""
    layers: Annotated[int, Field(ge=2, le=MOST_LAYERS)] = 4
    """As the paper counts: the hidden layers and the classifier."""
    units: Annotated[int, Field(ge=1)] = 256
    """Units of each hidden layer; of a CNN, its filters."""
    interfaces: str = "all"
    """Behind which hidden layers: "all", or numbers from 1, as in 1,3."""
    lambda_: Annotated[float, Field(ge=0, le=1, alias="lambda"), tyro.conf.arg(name="lambda")] = 0.0
    """The weight of the real error in BP(lambda)."""
    warmup: Annotated[int, Field(ge=0)] | None = None
    """Iterations at first with lambda at 1: the feedback models learn before they are trusted. By
    default what suits the method."""
    unlock: Literal["no", "update", "full"] = "no"
    """"update": each layer is updated before the next one runs; the gradients are the same.
    "full": nor does it wait for its input, which a model predicts from the images."""
    p_update: Annotated[float, Field(ge=0, le=1)] = 1.0
    """The probability that a layer is updated at a step, each by itself and in random order; with
    "full", that it does anything at all."""
    input_hidden: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    """Widths of the hidden layers of the models that predict inputs, for "full"; by default what
    suits it."""
    feedback_hidden: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    """Widths (for a CNN, filters) of the feedback models' hidden layers, as in 256 256; with no
    number after it, a linear model; by default the paper's for the method and the way of unlocking,
    but linear for cdni in "ours"."""
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Of the stale average; the best of those tried on held-out images."""
    iterations: Annotated[int, Field(ge=0)] = 0
    """Training steps; 0 for what suits the method."""
    batch_size: Annotated[int, Field(ge=2)] = 256
    """Examples a step."""
    learning_rate: Annotated[float, Field(ge=0)] = 0
    """Adam's, at first; it falls to a tenth at 60% and at 80% of the iterations. 0 for what suits
    the method."""
    feedback_learning_rate: Annotated[float, Field(ge=0)] = 0
    """The same for feedback models; 0 for what suits the method, or that of the network."""
    input_learning_rate: Annotated[float, Field(ge=0)] = 0
    """The same for models that predict inputs, but that of "ours" does not fall, since they have to
    follow the layers; 0 for what suits them."""
    schedule: Schedule = "ours"
    """What suits a method: "ours", or the "paper"'s 500k iterations at 3e-5."""
    validation: Annotated[int, Field(ge=0)] = 0
    """Training images held out, to choose settings by; the test set is not for that."""
    eval_every: Annotated[int, Field(ge=1)] = 250
    """Steps between evaluations, which also probe the interfaces."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 500
    """Steps between checkpoints; more where they would take over a twentieth of the time."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Of the weights and the order of the examples."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: autocast, which is several times faster where the processor has it in hardware."""
    device: str = "auto"
    """Where to run: cpu, cuda, cuda:1, or auto for a GPU where there is one."""
    graph: Literal["auto", "no"] = "auto"
    """Whether a GPU replays the training step as one CUDA graph: where it can, or never."""
    threads: Annotated[int, Field(ge=0, le=MOST_THREADS)] = 0
    """CPU threads; 0 leaves the choice to PyTorch."""

    @model_validator(mode="after")
    def _settings_agree(self) -> FeedForwardConfig:
        self.positions()
        by_chance = self.unlock == "no"
        asked = f"--p-update {self.p_update:g}" if by_chance else f"--unlock {self.unlock}"
        if self.method == "backprop" and self.waits_for_nothing:
            raise ValueError(f"{asked} needs interfaces, which --method backprop has not")
        if self.input_hidden is not None and self.unlock != "full":
            raise ValueError(
                f"--input-hidden is for --unlock full; got {self.input_hidden} and --unlock "
                f"{self.unlock}"
            )
        if self.waits_for_nothing and (self.lambda_ or self.warmup):
            raise ValueError(
                f"{asked} needs --lambda 0 and --warmup 0, since any part of the real error "
                f"has to be waited for; got lambda {self.lambda_:g} and warmup {self.warmup or 0}"
            )
        return self

    @property
    def waits_for_nothing(self) -> bool:
        """Whether updates do not wait for the real error."""
        return self.unlock != "no" or self.p_update < 1

    def positions(self) -> list[int]:
        """The hidden layers with an interface behind them, counted from 1."""
        hidden = self.layers - 1
        if self.method == "backprop":
            return []
        if self.interfaces == "all":
            return list(range(1, hidden + 1))
        try:
            found = sorted({int(part) for part in self.interfaces.split(",")})
        except ValueError:
            raise ValueError(
                f'interfaces must be "all" or numbers such as 1,3; got {self.interfaces!r}'
            ) from None
        if not found or found[0] < 1 or found[-1] > hidden:
            raise ValueError(
                f"interfaces must lie between 1 and {hidden} for {self.layers} layers, "
                f"got {self.interfaces!r}"
            )
        return found

    def folder_name(self, recipe: str) -> str:
        """By recipe, depth, method and seed."""
        return f"{recipe}-{self.layers}-{self.method}-seed{self.seed}"

    def rates(self, device: torch.device) -> Rates:
        """The learning rates, of settled settings.

        Those of the models that predict inputs fall only in the paper's schedule: these models have
        to follow the layers, to the end.
        """
        return Rates(
            self.learning_rate,
            self.feedback_learning_rate,
            self.input_learning_rate,
            self.iterations,
            device,
            inputs_fall=self.schedule == "paper",
        )


PAPER = {"iterations": 500_000, "learning_rate": 3e-5}
"""For every feed-forward network (D.1); the rate falls at 300k and 400k."""
EVAL_BATCH = 2000
"""Images of one evaluation step."""
CLASSES = 10
SHAPES = {
    "digits": (1, 8, 8),
    "mnist": (1, 28, 28),
    "fashion-mnist": (1, 28, 28),
    "cifar10": (3, 32, 32),
}

# The models that predict inputs are fitted least often and have to keep up (docs/log.md).
_FULLY_UNLOCKED: Mapping[str, Any] = {
    "iterations": 10_000,
    "learning_rate": 3e-4,
    "feedback_learning_rate": 1e-3,
    "input_learning_rate": 3e-3,
    "input_hidden": (512,),
}


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


class ImageTrainer(experiment.Trainer):
    """Trains one network by one method.

    Args:
        model: the network, with its interfaces.
        config: all settings, settled.
        data: the examples, on the device.
    """

    def __init__(self, model: nn.Module, config: FeedForwardConfig, data: DataSet) -> None:
        self.config = config
        device = data.train_x.device
        laid = _memory_format(model, device)
        self.model: nn.Module = convert_conv2d_weight_memory_format(model, laid)
        train_x = data.train_x.contiguous(memory_format=laid)
        held = len(train_x) - config.validation
        self.train = (train_x[:held], data.train_y[:held])
        self.held_out = (train_x[held:], data.train_y[held:])
        self.test = (data.test_x.contiguous(memory_format=laid), data.test_y)
        self.batches = Batches(*self.train, config.batch_size, config.seed)
        by_chance = config.unlock == "full" or config.p_update < 1
        self.stepper = stepper(self.model, config.rates(device), config.unlock, config.p_update)
        self._losses = torch.zeros(2, device=device)  # since the last look: their sum, and how many
        self._interfaces = [m for m in self.model.modules() if isinstance(m, sg.Interface)]
        self._x, self._y = self.batches.room()
        recorder = None if by_chance else recorder_for(device, config.graph)
        self._captured: CapturedStep | None = None
        if recorder is not None:
            self._captured = CapturedStep(self._update, self._interfaces, recorder)
        if recorder is not None or device.type == "cuda":
            for interface in self._interfaces:
                interface.check_finite = "later"

    @property
    def chance(self) -> dict[str, float]:
        """The test error of whoever always guesses the most common class."""
        return {"test_error": most_common_error(self.test[1])}

    @property
    def samples(self) -> int:
        """Examples seen."""
        return self.step * self.config.batch_size

    def summary(self) -> dict[str, Any]:
        """What the run's summary says besides the last evaluation."""
        schedule = getattr(self.stepper, "schedule", None)
        by_chance = isinstance(schedule, sg.Sporadic | sg.FullyUnlocked)
        return {"updates": dict(schedule.updates)} if by_chance else {}

    def advance(self) -> None:
        """One training step; reads nothing back from the device."""
        self.stepper.rates.at(self.step)
        self.batches.fill(self.step, self._x, self._y)
        (self._captured or self._update)()
        self.step += 1

    def _update(self) -> None:
        with self._precision():
            loss = self.stepper.step(self._x, self._y)
        if loss is not None:
            self._losses[0] += loss
            self._losses[1] += 1

    def evaluate(self) -> dict[str, float]:
        """Losses and error rates (in percent) now, and the interfaces' distances.

        The training loss is the mean of the steps since the last call, NaN if none had one.

        Raises:
            NonFiniteError: the loss, or an error that came back to an interface, held NaN or
                infinity.
        """
        total, count = self._check()
        values = {"train_loss": total / count if count else math.nan}
        self._losses.zero_()
        values["train_error"] = self._error(*(part[:10_000] for part in self.train))
        if len(self.held_out[0]):
            values["validation_error"] = self._error(*self.held_out)
        values["test_error"] = self._error(*self.test)
        if self._interfaces:
            x, y = self.batches.at(self.step)
            with self._precision():
                found = sg.probe(self.model, partial(loss_fn, y=y), x, y)
            for name, distance in found.items():
                values |= {f"interface/{name}/{key}": value for key, value in distance.items()}
        return values

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on.

        Raises:
            NonFiniteError: as for :meth:`evaluate`, or a weight is not finite; such a state is not
                worth to be kept.
        """
        self._check()
        check_weights(self.model)
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "stepper": self.stepper.state_dict(),
            "losses": self._losses,
            "random": torch.get_rng_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to the moment of :meth:`state_dict`."""
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.stepper.load_state_dict(state["stepper"])
        self._losses.copy_(state["losses"])
        torch.set_rng_state(state["random"])
        if self._captured is not None:
            self._captured.forget()

    def _check(self) -> list[float]:
        """The sum of the losses since the last look, and how many, if all is finite."""
        for interface in self._interfaces:
            interface.check_noted()
        total, count = self._losses.tolist()
        if not math.isfinite(total):
            raise NonFiniteError(f"the training loss is {total}")
        return [total, count]

    def _precision(self) -> torch.autocast:
        enabled = self.config.precision == "bfloat16"
        return torch.autocast(self.train[0].device.type, torch.bfloat16, enabled=enabled)

    @torch.no_grad()
    def _error(self, x: Tensor, y: Tensor) -> float:
        self.model.eval()
        wrong = torch.zeros((), dtype=torch.long, device=x.device)
        for part, labels in zip(x.split(EVAL_BATCH), y.split(EVAL_BATCH), strict=True):
            wrong += (self.model(part).argmax(dim=1) != labels).sum()
        self.model.train()
        return 100 * wrong.item() / len(x)


def _memory_format(model: nn.Module, device: torch.device) -> torch.memory_format:
    """How images should lie in memory: a GPU's convolutions are made for channels last."""
    convolves = any(parameter.ndim == 4 for parameter in model.parameters())
    return torch.channels_last if convolves and device.type == "cuda" else torch.contiguous_format


@dataclass(frozen=True)
class ImageExperiment(Experiment[FeedForwardConfig, DataSet]):
    """A data set of images, a network, and the settings that suit them.

    Attributes:
        feedback_hidden: widths, or filters, of the hidden layers of the paper's feedback models
            (D.1): of "dni", and of "cdni", which sees the label; none of a linear model.
        iterations: what suits this recipe.
        convolves: whether the network is convolutional, or fully connected.
        suits: what suits some methods better than the usual settings; later ones count more.
    """

    metrics: ClassVar = (
        Metric(
            "test_error", "Test error, %", 2, "test error {:.2f}%", outcome="test error {:.2f}%"
        ),
        Metric("validation_error", "Validation error, %", 2, "validation error {:.2f}%"),
        Metric("train_error", "Training error, %", 2),
        Metric("train_loss", "Training loss", progress="loss {:.4f}"),
    )
    charts: ClassVar = (
        Axis("test_error", "Test error", "test error, %"),
        Axis("validation_error", "Validation error", "validation error, %"),
        Axis("train_error", "Training error", "training error, %"),
        Axis("train_loss", "Training loss", "training loss"),
    )
    methods: ClassVar = {
        "backprop": "the true error comes back",
        "none": "no error comes back between layers",
        "stale": "an average of past errors",
        "dni": "a synthetic gradient",
        "cdni": "a synthetic gradient from a model that also sees the label",
    }

    feedback_hidden: Mapping[str, tuple[int, ...]]
    iterations: int
    convolves: bool = False
    suits: Sequence[Suits] = ()

    @property
    def paper(self) -> Mapping[str, Any]:
        """The paper's iterations and rate."""
        return PAPER

    def suited(self, config: FeedForwardConfig) -> Mapping[str, Any]:
        """What suits the method, the depth and the way of unlocking."""
        if config.schedule == "paper":
            suited: dict[str, Any] = dict(PAPER)
            if config.unlock == "full":
                # Of inputs and of errors: "the identical architecture", with one hidden layer (3.3)
                width = self.feedback_hidden["dni"][:1]
                suited |= {"feedback_hidden": width, "input_hidden": width}
                suited |= {"input_learning_rate": PAPER["learning_rate"]}
        else:
            suited = {"iterations": self.iterations, "learning_rate": 1e-3}
            if config.unlock == "full":
                suited |= _FULLY_UNLOCKED
                if config.method == "dni":
                    suited |= {"feedback_hidden": self.feedback_hidden["dni"][:1]}
            for suits in self.suits:
                if config.method == suits.method and config.layers >= suits.from_layers:
                    suited |= suits.settings
        if config.waits_for_nothing:  # there is no real error to warm up with
            suited["warmup"] = 0
        return {"warmup": 0, **suited}

    def hidden(self, config: FeedForwardConfig) -> tuple[int, ...]:
        """The widths of the feedback models' hidden layers."""
        if config.feedback_hidden is not None:
            return config.feedback_hidden
        return self.feedback_hidden["cdni" if config.method == "cdni" else "dni"]

    def network(self, config: FeedForwardConfig, data: DataSet) -> nn.Module:
        """The network without interfaces."""
        image, sizes = data.train_x.shape[1:], (config.units, config.layers, data.classes)
        return cnn(image, *sizes) if self.convolves else fcn(math.prod(image), *sizes)

    def model(self, config: FeedForwardConfig, data: DataSet) -> nn.Module:
        """The network with its interfaces, on the data's device; its weights follow the seed.

        Raises:
            UsageError: inputs of a convolutional network would have to be predicted.
        """
        torch.manual_seed(config.seed)
        warmup = config.warmup
        return put_in(
            self.network(config, data).to(data.train_x.device),
            config.method,
            config.positions(),
            data.train_x[:2],
            lambda_=WarmUp(warmup, config.lambda_) if warmup else config.lambda_,
            hidden=self.hidden(config),
            classes=data.classes if config.method == "cdni" else 0,
            decay=config.decay,
            input_hidden=config.input_hidden if config.unlock == "full" else None,
        )

    def memory(self, config: FeedForwardConfig) -> int:
        """About how many bytes training needs."""
        image, units, batch = SHAPES[self.data], config.units, config.batch_size
        hidden = self.hidden(config)
        learned = len(config.positions()) if config.method in ("dni", "cdni") else 0
        between = config.layers - 2  # hidden layers that read a hidden layer
        if not self.convolves:
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
        """The images, on the device."""
        return load(self.data, root=root, device=device)

    def build(self, config: FeedForwardConfig, data: DataSet, device: torch.device) -> ImageTrainer:
        """What trains it; ``device`` is that of the data.

        Raises:
            UsageError: a batch is larger than the data set.
        """
        room = len(data.train_x) - config.validation
        if config.batch_size > room:
            raise UsageError(
                f"--batch-size: {config.batch_size} is more than the {room} training examples"
            )
        return ImageTrainer(self.model(config, data), config, data)
