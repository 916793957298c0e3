"""What a run of the two networks is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from synthgrad.lab.settings import MOST_THREADS, Settings

Method = Literal["backprop", "none", "dni", "cdni"]
Schedule = Literal["ours", "paper"]


class MultiNetworkConfig(Settings):
    """The options of ``multi-network``.

    Raises:
        UsageError: a value is outside its range; says which, what came and what was expected.
    """

    only_with: ClassVar[Mapping[str, tuple[str, tuple[str, ...]]]] = dict.fromkeys(
        ("feedback_hidden", "scale", "feedback_learning_rate"), ("method", ("dni", "cdni"))
    )

    method: Method = "cdni"
    """What error comes back to network A from B: the real one, with both networks as one graph
    that is updated every T² ticks; none; or a synthetic gradient, from a model that sees the
    message, or (cdni) also how many threes the last T digits had. With all but backprop A is
    updated every T ticks, and B every T²."""
    unroll: Annotated[int, Field(ge=1)] = 4
    """T: network B ticks once in T ticks of A. A answers every T ticks, B every T²."""
    units: Annotated[int, Field(ge=1)] = 64
    """Units of every layer of both networks, and values of a message (the paper: 256)."""
    feedback_hidden: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    """Widths of the feedback model's hidden layers; with no number after it, a linear model; by
    default one as wide as the networks."""
    scale: Annotated[float, Field(ge=0)] | None = None
    """What the synthetic gradient is multiplied by before it enters network A; by default what
    suits the method (the paper: 10)."""
    batch_size: Annotated[int, Field(ge=2)] = 64
    """Rows, each a stream of its own."""
    iterations: Annotated[int, Field(ge=0)] = 0
    """Training steps of T² ticks each; 0 for what suits the recipe."""
    learning_rate: Annotated[float, Field(ge=0)] = 0
    """Adam's, for both networks; 0 for what suits the method."""
    feedback_learning_rate: Annotated[float, Field(ge=0)] = 0
    """Adam's, for the feedback model; 0 for what suits the method, or that of the networks."""
    schedule: Schedule = "ours"
    """What suits a method: "ours", or the "paper"'s iterations at 1e-5."""
    validation: Annotated[int, Field(ge=0)] = 0
    """Training images held out, to choose settings by; the test set is not for that."""
    eval_every: Annotated[int, Field(ge=1)] = 50
    """Steps between evaluations."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 500
    """Steps between checkpoints; more where they would take over a twentieth of the time."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Of the weights and the streams."""
    device: str = "auto"
    """Where to run: cpu, cuda, cuda:1, or auto for a GPU where there is one."""
    threads: Annotated[int, Field(ge=0, le=MOST_THREADS)] = 0
    """CPU threads; 0 leaves the choice to PyTorch."""

    def folder_name(self, recipe: str) -> str:
        """By recipe, T, method and seed."""
        return f"{recipe}-T{self.unroll}-{self.method}-seed{self.seed}"

    @property
    def ticks(self) -> int:
        """Ticks of one training step, after which both networks have answered: T²."""
        return self.unroll**2
