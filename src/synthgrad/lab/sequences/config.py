"""What a recurrent run is made of. A recipe is a set of defaults for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

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


class EpisodeConfig(RecurrentConfig):
    """The options of Copy and Repeat Copy.

    Raises:
        UsageError: as for :class:`RecurrentConfig`.
    """

    characters: Annotated[int, Field(ge=0, le=1 << 16)] = 0
    """How many different characters there are to copy; 0 for what suits the recipe (the paper does
    not say)."""
    phases: Literal["random", "same"] = "random"
    """Where in their episode the rows begin: each at its own step, or all at the first."""
    threshold: Annotated[float, Field(gt=0)] = 0.15
    """Bits: a level is solved when the average error of a character is below that."""
    level_every: Annotated[int, Field(ge=1)] = 50
    """Steps between checks of the level, which wait for the device; the last comes at the end."""

    @field_validator("characters")
    @classmethod
    def _more_than_one(cls, value: int) -> int:
        if value == 1:
            raise ValueError("there is nothing to remember of one character; expected 2 or more")
        return value


class TextConfig(RecurrentConfig):
    """The options of language modelling by characters.

    Raises:
        UsageError: as for :class:`RecurrentConfig`.
    """

    eval_every: Annotated[int, Field(ge=1)] = 5000
    """Steps between evaluations on the validation text."""
    patience: Annotated[int, Field(ge=0)] = 1
    """Evaluations without a new best after which training stops; 0 for never."""
    bpc_level: Annotated[float, Field(gt=0)] = 1.35
    """Test bits per character whose data and time are noted when they are first reached."""
    evaluation_characters: Annotated[int, Field(ge=0)] = 0
    """Of the validation and of the test text only so many, from the start; 0 for all."""

    @field_validator("evaluation_characters")
    @classmethod
    def _something_to_predict(cls, value: int) -> int:
        if value == 1:
            raise ValueError("of one character there is none to predict; expected 2 or more")
        return value
