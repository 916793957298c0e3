"""What the command line says about a pipeline."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from pydantic import Field, model_validator

from synthgrad.distributed import Options, address, check_interface
from synthgrad.errors import ArgumentError
from synthgrad.lab.errors import UsageError
from synthgrad.lab.experiments.images import FeedForwardConfig, ImageExperiment
from synthgrad.lab.settings import Settings


class PipelineConfig(Settings):
    """How a network is cut into stages, and how these talk.

    Raises:
        UsageError: a value is outside its range; says which, what came and what was expected.
    """

    stages: Annotated[int, Field(ge=2)] = 2
    """Processes, each with its share of the layers."""
    split: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Layers of each stage, as in 1 3; by default as equal as can be, the first ones larger."""
    window: Annotated[int, Field(ge=0, le=128)] = 0
    """Messages in flight between two stages; 0 follows the measured round trip."""
    target_every: Annotated[int, Field(ge=1)] = 1
    """Targets come back for every so manieth message."""
    messages: Literal["float32", "bfloat16"] = "float32"
    """What messages and targets travel as."""
    alone: Annotated[int, Field(ge=0)] | None = None
    """Steps for which a stage goes on without the next one before it waits for it; by default
    all: it never does."""
    timeout: Annotated[float, Field(gt=0, le=1e6)] = 10.0
    """Seconds of silence after which another stage counts as gone."""
    patience: Annotated[float, Field(gt=0)] = 120.0
    """Seconds for which a stage waits for one that it needs, before it gives up."""
    save_seconds: Annotated[float, Field(gt=0)] = 10.0
    """Seconds between the checkpoints of a stage."""
    interface: Annotated[str | None, tyro.conf.arg(name="network-interface")] = None
    """The network interface to listen on, as in eth0; by default that which leads to the store."""
    transport: Literal["auto", "gloo"] = "auto"
    """"auto": between stages on different GPUs messages go by NCCL; "gloo": never."""

    @model_validator(mode="after")
    def _split_agrees(self) -> PipelineConfig:
        if self.split and len(self.split) != self.stages:
            raise ValueError(
                f"--split gives {len(self.split)} stages ({' '.join(map(str, self.split))}) and "
                f"--stages {self.stages}"
            )
        return self

    def folder_name(self, recipe: str) -> str:
        """By recipe and stages."""
        return f"{recipe}-{self.stages}-stages"

    def layers_of(self, config: FeedForwardConfig) -> list[int]:
        """How many layers each stage gets.

        Raises:
            UsageError: there are fewer layers than stages, or others than the split adds up to.
        """
        layers, stages = config.layers, self.stages
        if self.split:
            if sum(self.split) != layers:
                raise UsageError(f"--split: {sum(self.split)} layers, but the network has {layers}")
            return list(self.split)
        if layers < stages:
            raise UsageError(
                f"--stages: {layers} layers make at most {layers} stages, got {stages}"
            )
        return [layers // stages + (i < layers % stages) for i in range(stages)]

    def options(self, recipe: str, config: FeedForwardConfig, out: Path) -> Options:
        """What the library needs to know."""
        run = json.dumps([recipe, config.to_json(), self.layers_of(config)], sort_keys=True)
        return Options(
            window=self.window or "auto",
            target_every=self.target_every,
            message_dtype=torch.bfloat16 if self.messages == "bfloat16" else None,
            alone=self.alone,
            timeout=self.timeout,
            patience=self.patience,
            checkpoint_every=self.save_seconds,
            folder=out,
            interface=self.interface,
            transport=self.transport,
            fingerprint=hashlib.sha256(run.encode()).hexdigest()[:16],
        )


def settled(recipe: ImageExperiment, config: FeedForwardConfig) -> FeedForwardConfig:
    """A recipe's settings for stages, with nothing left open.

    Raises:
        UsageError: stages cannot do what they ask for.
    """
    if config.method == "backprop":
        raise UsageError(
            "--method: stages do not wait for the real error, so expected one of none, dni, cdni "
            "and stale; got 'backprop'"
        )
    for name, value, only in (
        ("--p-update", config.p_update, 1.0),
        ("--precision", config.precision, "float32"),
        ("--validation", config.validation, 0),
        ("--lambda", config.lambda_, 0.0),
        ("--warmup", config.warmup or 0, 0),
    ):
        if value != only:
            raise UsageError(f"{name}: stages can only have {only}, got {value}")
    if config.unlock == "no":
        config = config.changed(unlock="update")
    return recipe.settle(config)


def check_here(pipeline: PipelineConfig, store: str | None) -> None:
    """Looks whether this machine has what the settings name.

    Raises:
        UsageError: it has no such network interface, or the store's address is none.
    """
    try:
        check_interface(pipeline.interface)
    except ArgumentError as error:
        raise UsageError(f"--network-{error}") from None
    try:
        if store is not None:
            address(store)
    except ArgumentError as error:
        raise UsageError(f"--store: {error}") from None


def to_json(
    recipe: ImageExperiment, config: FeedForwardConfig, pipeline: PipelineConfig
) -> dict[str, Any]:
    """As it stands in ``config.json``."""
    return {"recipe": recipe.name, **config.to_json(), "pipeline": pipeline.to_json()}
