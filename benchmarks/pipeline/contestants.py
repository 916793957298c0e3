"""A pipeline of the benchmark from its parts to its rate."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.link import Place
from benchmarks.pipeline.crew import Outcome, cores, run_crew, slowest
from benchmarks.pipeline.job import Job, Role
from benchmarks.pipeline.work import Work

LIMIT = 900.0
"""Seconds after which a pipeline counts as stuck."""


@dataclass
class Runner:
    """Runs pipelines, each in a folder of its own.

    Args:
        folder: where these are made.
    """

    folder: Path

    def __post_init__(self) -> None:
        self._numbers = itertools.count()

    def new_folder(self, name: str) -> Path:
        """A new one."""
        return self.folder / f"{next(self._numbers):03d}-{name}"

    def stages(
        self,
        role: Role,
        work: Work,
        stages: int,
        steps: int,
        *,
        pinned: bool = True,
        **options: Any,
    ) -> list[Job]:
        """A job for each stage, each on a core of its own as far as there are cores.

        Args:
            role: as in :class:`Job`.
            work: what is trained.
            stages: how many.
            steps: how many.
            pinned: whether each process keeps to one core.
            options: the job's others.
        """
        folder = str(self.new_folder(role))
        available = cores()
        return [
            Job(
                role=role,
                work=work,
                steps=steps,
                folder=folder,
                stage=stage,
                stages=stages,
                core=available[stage % len(available)] if pinned else None,
                **options,
            )
            for stage in range(stages)
        ]

    def pipeline(
        self, place: Place, role: Role, work: Work, stages: int, steps: int, **options: Any
    ) -> list[Outcome]:
        """Runs one, with a stage on each host."""
        return run_crew(place, self.stages(role, work, stages, steps, **options), LIMIT)

    def alone(self, place: Place, work: Work, stages: int, steps: int, stage: int) -> Outcome:
        """One stage of a decoupled pipeline on messages that are there."""
        job = self.stages("alone", work, stages, steps)[stage]
        return run_crew(place, [job], LIMIT)[0]

    def backprop(
        self, place: Place, work: Work, stages: int, steps: int, threads: int, **options: Any
    ) -> Outcome:
        """The whole network, all ``stages`` of it, in one process."""
        pinned = threads == 1
        jobs = self.stages(
            "backprop", work, stages, steps, pinned=pinned, threads=threads, **options
        )
        return run_crew(place, jobs[:1], LIMIT)[0]


class Times:
    """Seconds a step by contestant and round; the least counts, since noise only ever adds."""

    def __init__(self) -> None:
        self.all: dict[str, list[float]] = {}

    def add(self, name: str, seconds: float) -> None:
        """Of one round."""
        self.all.setdefault(name, []).append(seconds)

    def add_pipeline(self, name: str, outcomes: list[Outcome], warm_up: int) -> None:
        """Of one round, that of the slowest stage."""
        self.add(name, slowest(outcomes, warm_up))

    def __getitem__(self, name: str) -> float:
        return min(self.all[name])

    def best(self, prefix: str) -> float:
        """Of the fastest contestant whose name begins so."""
        return min(self[name] for name in self.all if name.startswith(prefix))
