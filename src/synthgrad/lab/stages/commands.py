"""``synthgrad launch``, ``stage`` and ``store``: the arguments, and what they start."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from synthgrad.lab.errors import UsageError, check_path
from synthgrad.lab.experiments.image_recipes import RECIPES
from synthgrad.lab.experiments.images import FeedForwardConfig
from synthgrad.lab.runs.progress import outcome
from synthgrad.lab.stages.options import PipelineConfig


@dataclass(frozen=True, kw_only=True)
class _PipelineOptions:
    recipe: tyro.conf.Suppress[str]
    config: FeedForwardConfig
    pipeline: PipelineConfig
    data_root: Path | None = None
    """Where the data sets are, in torchvision's layout; by default $SYNTHGRAD_DATA."""
    out: Path | None = None
    """The run folder; by default one under runs/, named by recipe, method, seed and stages."""
    resume: bool = False
    """Go on with the run that the folder holds."""
    store: str | None = None
    """Where the stages meet, as in host:port (synthgrad store); by default one of their own on
    this machine."""


@dataclass(frozen=True, kw_only=True)
class _LaunchOptions(_PipelineOptions):
    restarts: int = 3
    """How often each stage may be started again in a row, with no newer checkpoint in between."""


@dataclass(frozen=True, kw_only=True)
class _StageOptions(_PipelineOptions):
    stage: int
    """Which stage this is, counted from 0."""


def _in_stages(options: Any, **values: Any) -> Any:
    return tyro.extras.subcommand_type_from_defaults(
        {
            r.name: options(recipe=r.name, config=r.defaults, pipeline=PipelineConfig(), **values)
            for r in RECIPES.values()
        },
        {r.name: f"{r.stands_for}." for r in RECIPES.values()},
        prefix_names=False,
    )


_Launched = _in_stages(_LaunchOptions)
_Staged = _in_stages(_StageOptions, stage=tyro.MISSING)


def launch(options: tyro.conf.OmitArgPrefixes[_Launched]) -> None:  # type: ignore[valid-type]
    """Run one recipe in stages: processes that do not wait for those after them."""
    from synthgrad.lab.stages.launch import launch as launch_stages

    chosen: Any = options
    recipe = RECIPES[chosen.recipe]
    out = chosen.out or _stages_folder(chosen)
    check_path("--out", out)
    if not chosen.resume:
        chosen.config.check_effect(recipe.defaults)
    done = (out / "summary.json").exists()
    summary = launch_stages(
        recipe,
        chosen.config,
        chosen.pipeline,
        out,
        store=chosen.store,
        restarts=chosen.restarts,
        data_root=chosen.data_root,
        resume=chosen.resume,
    )
    where = f"it was finished already, in {out}" if done else f"written to {out}"
    print(
        f"{recipe.name} {chosen.config.method} in {chosen.pipeline.stages} stages: "
        f"{outcome(summary)}; {where}"
    )


def stage(options: tyro.conf.OmitArgPrefixes[_Staged]) -> None:  # type: ignore[valid-type]
    """Run one stage of a recipe, on this or any machine; needs --store."""
    import logging

    from synthgrad.lab.stages.work import work

    chosen: Any = options
    if chosen.store is None:
        raise UsageError("--store: expected host:port, where synthgrad store listens; got none")
    recipe = RECIPES[chosen.recipe]
    if not chosen.resume:
        chosen.config.check_effect(recipe.defaults)
    logging.basicConfig(level=logging.INFO, format=f"stage {chosen.stage}: %(message)s")
    work(
        recipe,
        chosen.config,
        chosen.pipeline,
        index=chosen.stage,
        store=chosen.store,
        out=chosen.out or _stages_folder(chosen),
        data_root=chosen.data_root,
        resume=chosen.resume,
    )


def store(port: int, host: str = "127.0.0.1") -> None:
    """The rendezvous that stages meet at; runs until it is stopped.

    Whoever reaches its port can take a stage's place: there is no password. Open it to no network
    but one whose machines you trust.

    Args:
        port: Where to listen; 0 for any port that is free.
        host: The address to listen on; by default only this machine reaches it.
    """
    from synthgrad.lab.stages.store import keep

    keep(port, host)


def _stages_folder(chosen: Any) -> Path:
    name = chosen.config.folder_name(chosen.recipe)
    return Path("runs") / f"{name}-stages{chosen.pipeline.stages}"


COMMANDS = (launch, stage, store)
