"""What a feed-forward run is made of. A recipe is a set of defaults for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import tyro
from pydantic import Field, model_validator

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
