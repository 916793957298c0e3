"""What one process of the benchmark is asked to do, and what it reports."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.pipeline.work import Work

Role = Literal["ours", "gpipe", "1f1b", "backprop", "alone"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One process.

    Attributes:
        role: "ours": a decoupled stage. "gpipe", "1f1b": a stage of a locked schedule. "backprop":
            the whole network. "alone": a decoupled stage's work on messages that are there.
        work: what is trained.
        steps: how many.
        folder: where it reports.
        stage: which, counted from 0.
        stages: how many there are.
        store: where they meet, "host:port".
        interface: the network interface.
        core: the one that it runs on; None for any.
        threads: of its arithmetic.
        microbatches: of a locked schedule.
        window: messages in flight; 0 to follow the measured round trip.
        evaluate_every: steps between evaluations; 0 for none.
        timeout: seconds after which a silent neighbour counts as gone.
        checkpoint_every: seconds.
        resume: whether to go on from a checkpoint.
    """

    role: Role
    work: Work
    steps: int
    folder: str
    stage: int = 0
    stages: int = 1
    store: str = ""
    interface: str = "lo"
    core: int | None = None
    threads: int = 1
    microbatches: int = 4
    window: int = 0
    evaluate_every: int = 0
    timeout: float = 10.0
    checkpoint_every: float = 60.0
    resume: bool = False

    def to_json(self) -> str:
        """For a command line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        """The inverse."""
        values: dict[str, Any] = json.loads(text)
        values["work"] = Work(**values["work"])
        return cls(**values)

    @property
    def times_path(self) -> Path:
        """Where each step is logged."""
        return Path(self.folder) / f"times-{self.stage}"

    @property
    def result_path(self) -> Path:
        """Where the report goes when all is done."""
        return Path(self.folder) / f"result-{self.stage}.json"
