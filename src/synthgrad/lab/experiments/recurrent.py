"""What all experiments with recurrent networks share: settings, what suits them, memory (D.2)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import Field, model_validator

from synthgrad.lab.errors import UsageError
from synthgrad.lab.experiment import Axis, Experiment, Metric
from synthgrad.lab.runs.memory import A_PARAMETER, BASE, widths
from synthgrad.lab.settings import MOST_THREADS, Settings

Method = Literal["bptt", "dni", "dni-aux"]
Schedule = Literal["ours", "paper"]
Precision = Literal["float32", "bfloat16"]

_FEEDBACK = (
    "feedback_learning_rate",
    "feedback_clip",
    "scale",
    "warmup",
    "feedback_hidden",
    "feedback_sees",
    "feedback_history",
    "feedback_into_core",
)
_AUXILIARY = ("auxiliary_hidden", "auxiliary_into_core")


TRAIN_BITS = Metric("train_bits", "Training bits per character (last)", 3, "train bits {:.3f}")
OF_ANY = (
    Metric("samples", "Characters read", 0),
    Metric(
        "explained/boundary",
        "Explained variance of the synthetic gradient",
        progress="explained/boundary {:.2f}",
    ),
    Metric("explained/inside", "Explained variance inside the unroll"),
    Metric("explained/auxiliary", "Explained variance of the auxiliary prediction"),
    Metric("gradient_norm"),
    Metric("feedback_gradient_norm"),
)
"""What training any recurrent network logs."""
BITS = "bits per character"
TRAINING = Axis("train_bits", "Training error", BITS, over="samples", from_zero=False)
EXPLAINED = Axis(
    "explained/boundary",
    "Explained variance of the synthetic gradient",
    "explained",
    0.0,
    over="samples",
)

PAPER: Mapping[str, Any] = {
    "iterations": 2_500_000,
    "learning_rate": 7e-5,
    "batch_size": 256,
    "scale": 0.1,
    "feedback_history": 0,
    "auxiliary_into_core": "all",
    "clip": 0.0,
}
"""Of every recurrent network (D.2); on the Penn Treebank early stopping comes first."""

SUITS: Mapping[str, Any] = {
    "learning_rate": 1e-3,
    "batch_size": 32,
    "units": 64,
    "scale": 0.5,
    "feedback_history": 16,
    "auxiliary_into_core": "all",
    "clip": 0.0,
}
"""What suits all recurrent networks on two cores; docs/log.md says what else was tried."""


class RecurrentConfig(Settings):
    """The options that all recurrent recipes share.

    Raises:
        UsageError: a value is outside its range; says which, what came and what was expected.
    """

    nothing_at_zero: ClassVar[frozenset[str]] = Settings.nothing_at_zero | {
        "samples",
        "units",
        "batch_size",
        "characters",
    }

    only_with: ClassVar[Mapping[str, tuple[str, tuple[str, ...]]]] = {
        **dict.fromkeys(_FEEDBACK, ("method", ("dni", "dni-aux"))),
        **dict.fromkeys(_AUXILIARY, ("method", ("dni-aux",))),
    }

    method: Method = "dni"
    """What error comes back over the end of an unroll: none (bptt), a synthetic gradient (dni), or
    that with the auxiliary task of predicting it an unroll ahead (dni-aux)."""
    unroll: Annotated[int, Field(ge=1)] = 3
    """T: steps of an unroll. Each training step is one."""
    units: Annotated[int, Field(ge=0)] = 0
    """Units of the LSTM; 0 for what suits the recipe."""
    batch_size: Annotated[int, Field(ge=0)] = 0
    """Rows, each a stream of its own; 0 for what suits the recipe."""
    iterations: Annotated[int, Field(ge=0)] = 0
    """Training steps; 0 for what --samples gives."""
    samples: Annotated[int, Field(ge=0)] = 0
    """Instead of --iterations: characters read by all rows together, so that runs with other
    unrolls read equally much; 0 for what suits the recipe."""
    learning_rate: Annotated[float, Field(ge=0)] = 0
    """Adam's, for the LSTM and the task; 0 for what suits the method."""
    feedback_learning_rate: Annotated[float, Field(ge=0)] = 0
    """Adam's, for the feedback model; 0 for what suits the method, or that of the LSTM."""
    clip: Annotated[float, Field(ge=0)] | None = None
    """Largest norm of the gradient of the LSTM and the task together; 0 for any; by default what
    suits the recipe."""
    feedback_clip: Annotated[float, Field(ge=0)] = 0
    """Largest norm of the feedback model's gradient; 0 for any."""
    forget_bias: float = 1.0
    """The bias of the LSTM's forget gate at the start."""
    scale: Annotated[float, Field(ge=0)] | None = None
    """What the synthetic gradient is multiplied by where it is consumed; by default what suits the
    method."""
    warmup: Annotated[int, Field(ge=0)] | None = None
    """Iterations at first in which the synthetic gradient is learned but not consumed; by default
    what suits the method."""
    feedback_hidden: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    """Widths of the feedback model's hidden layers; with no number after it, a linear model; by
    default one as wide as the LSTM."""
    feedback_sees: Literal["output", "state"] = "output"
    """What the feedback model sees: the LSTM's output, or its cell state as well."""
    feedback_history: Annotated[int, Field(ge=0)] | None = None
    """How many of the last inputs the feedback model sees besides (the auxiliary one sees the
    output alone); by default what suits the method, and none in the paper."""
    feedback_into_core: bool = False
    """Whether the feedback model's regression error flows into the LSTM."""
    auxiliary_hidden: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    """The same for the auxiliary model; by default as for the feedback model."""
    auxiliary_into_core: Literal["no", "last", "all"] | None = None
    """dni-aux: from which steps of an unroll the auxiliary error flows into the LSTM. "last" runs
    one step a second time, "all" the whole unroll; by default what suits the recipe."""
    schedule: Schedule = "ours"
    """What suits a method: "ours", which is small enough for two cores, or the "paper"'s sizes,
    iterations and rate."""
    eval_every: Annotated[int, Field(ge=1)] = 1000
    """Steps between evaluations."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 1000
    """Steps between checkpoints; more where they would take over a twentieth of the time."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Of the weights and the streams."""
    precision: Precision = "float32"
    """bfloat16: autocast of the network and the feedback models, which is faster where the
    processor has it in hardware; the carried state is rounded to it at the end of each unroll."""
    device: str = "auto"
    """Where to run: cpu, cuda, cuda:1, or auto for a GPU where there is one."""
    graph: Literal["auto", "no"] = "auto"
    """Whether a GPU replays the training step as one CUDA graph: where it can, or never."""
    threads: Annotated[int, Field(ge=0, le=MOST_THREADS)] = 0
    """CPU threads; 0 leaves the choice to PyTorch."""

    @model_validator(mode="after")
    def _settings_agree(self) -> Self:
        if self.feedback_sees == "state" and self.method == "dni-aux":
            raise ValueError(
                "--feedback-sees state goes with --method dni: the auxiliary task needs what the "
                "feedback model sees at every step, and an LSTM returns only its outputs"
            )
        return self

    def folder_name(self, recipe: str) -> str:
        """By recipe, unroll, method and seed."""
        return f"{recipe}-T{self.unroll}-{self.method}-seed{self.seed}"

    @property
    def consumed(self) -> int:
        """Characters that all rows together read in one training step."""
        return self.batch_size * self.unroll

    def iterations_for(self, samples: int) -> int:
        """The fewest training steps that read ``samples`` characters."""
        return -(-samples // self.consumed)


Config = TypeVar("Config", bound=RecurrentConfig)
Data = TypeVar("Data")


@dataclass(frozen=True, kw_only=True)
class RecurrentExperiment(Experiment[Config, Data]):
    """A task for a recurrent network, and the settings that suit it.

    Attributes:
        suits: what is left open by the defaults, for every method: any setting whose default is 0
            or None, among them ``units``, ``batch_size`` and ``samples``.
        by_method: what suits one method better.
        sizes: the paper's.
        larger_steps: whether the rates are meant for T = 2 and grow with T, since of as many
            characters longer unrolls make fewer steps: the network's with the square root of T / 2,
            at most twofold; the feedback model's with T / 2, at most 10/3-fold.
    """

    methods: ClassVar = {
        "bptt": "the true error comes back, from within the unroll",
        "dni": "a synthetic gradient comes back over the end of the unroll",
        "dni-aux": "a synthetic gradient, which the network also learns to foresee an unroll ahead",
    }

    suits: Mapping[str, Any]
    by_method: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    sizes: Mapping[str, Any] = field(default_factory=dict)
    larger_steps: bool = False

    @property
    def paper(self) -> Mapping[str, Any]:
        """The paper's settings."""
        return {**PAPER, **self.sizes}

    def suited(self, config: Config) -> Mapping[str, Any]:
        """What suits the method and the unroll."""
        if config.schedule == "paper":
            suited = dict(self.paper)
        else:
            suited = {**SUITS, **self.suits, **self.by_method.get(config.method, {})}
            if self.larger_steps:
                fewer = max(config.unroll / 2, 1.0)
                suited["learning_rate"] *= min(math.sqrt(fewer), 2.0)
                suited["feedback_learning_rate"] *= min(fewer, 10 / 3)
        if config.iterations or config.samples:  # said, if only in one of the two ways
            suited["iterations"] = suited["samples"] = 0
        return {"warmup": 0, **suited}

    def settle(self, config: Config) -> Config:
        """The configuration with nothing left open, its iterations those that its samples take.

        Raises:
            UsageError: it is that of another kind of experiment; or it has both iterations and
                samples, which disagree.
        """
        config = super().settle(config)
        return config.changed(iterations=_iterations(config))

    def bytes_for(self, config: RecurrentConfig, symbols: int) -> int:
        """About how many bytes training needs, where so many symbols are read one-hot."""
        units, rows = config.units, config.batch_size
        steps = rows * config.unroll
        parameters = 4 * units * (units + symbols) + units * symbols
        values = steps * (symbols * 4 + units * 10)
        if config.method != "bptt":
            sees = units * (1 if config.feedback_sees == "output" else 2)
            history = (config.feedback_history or 0) * symbols
            hidden = (units,) if config.feedback_hidden is None else config.feedback_hidden
            parameters += widths((sees + history, *hidden, 2 * units))
            values += rows * (sees + 2 * history + 3 * sum(hidden) + 6 * units)
            if config.method == "dni-aux":
                ahead = hidden if config.auxiliary_hidden is None else config.auxiliary_hidden
                parameters += widths((units, *ahead, 2 * units))
                values += steps * (2 * history + 3 * sum(ahead) + 16 * units)
        return BASE + A_PARAMETER * parameters + 4 * (values + symbols**2)


def _iterations(config: RecurrentConfig) -> int:
    """Of a configuration with all else settled."""
    if not config.samples:
        return config.iterations
    needed = config.iterations_for(config.samples)
    if config.iterations not in (0, needed):
        raise UsageError(
            f"--iterations and --samples are two ways to say one thing: {config.samples} samples "
            f"take {needed} iterations, got {config.iterations}"
        )
    return needed
