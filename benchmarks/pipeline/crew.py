"""Starts the processes of one pipeline where they belong, and collects what they report."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks import python_path
from benchmarks.link import Place
from benchmarks.pipeline.job import Job
from benchmarks.pipeline.timeline import read_timeline, seconds_per_step
from benchmarks.pipeline.worker import begin
from synthgrad.distributed import serve
from synthgrad.lab.errors import RunError

# A server that has torch loaded forks the processes, or most of the time would go to their start.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["benchmarks.pipeline.preload"])
_POLL = 0.02


@dataclass(frozen=True)
class Outcome:
    """What one process did.

    Attributes:
        job: what it was asked.
        times: the moment and number of every step, in order.
        result: what its role reports.
    """

    job: Job
    times: list[tuple[float, int]]
    result: dict[str, Any]


def slowest(outcomes: Sequence[Outcome], warm_up: int) -> float:
    """Seconds a step of a pipeline, which is as fast as its slowest stage."""
    return max(seconds_per_step(outcome.times, warm_up) for outcome in outcomes)


class Crew:
    """Processes of one pipeline, a stage on each host; they end with the block.

    Args:
        place: the hosts.

    Attributes:
        store: where they meet, "host:port"; on host 0.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        address = place.address(0)
        self._store = place.call(0, lambda: serve(0, address))
        self.store = f"{address}:{self._store.port}"
        self.jobs: dict[int, Job] = {}
        self._running: dict[int, Any] = {}
        self._absent: set[int] = set()

    def start(self, job: Job, host: int | None = None) -> None:
        """Starts the process of ``job.stage``, or starts it again."""
        folder = Path(job.folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"errors-{job.stage}.txt").touch()
        entrance = self.place.entrance(job.stage if host is None else host)
        os.environ["PYTHONPATH"] = python_path()  # for the server, which is started with the first
        process = _PROCESSES.Process(target=begin, args=(job.to_json(), entrance), daemon=True)
        process.start()
        self._running[job.stage] = process
        self._absent.discard(job.stage)
        self.jobs[job.stage] = job

    def send(self, stage: int, number: signal.Signals) -> None:
        """Sends a signal to a stage's process."""
        pid = self._running[stage].pid
        assert pid is not None
        os.kill(pid, number)

    def kill(self, stage: int) -> None:
        """``kill -9``; returns when the process is gone. It is waited for to be started again."""
        self._running[stage].kill()
        self._running[stage].join()
        self._absent.add(stage)

    def ended(self, stage: int) -> int | None:
        """The exit status of a stage's process; None while it runs."""
        return self._running[stage].exitcode

    def wait(self, limit: float, meanwhile: Callable[[], None] | None = None) -> list[Outcome]:
        """Waits until all are done.

        Args:
            limit: seconds.
            meanwhile: called again and again; may stop and start processes.

        Raises:
            RunError: one failed, or not all were done in time.
        """
        end = time.monotonic() + limit
        while self._absent or any(process.exitcode is None for process in self._running.values()):
            if meanwhile is not None:
                meanwhile()
            for stage, process in self._running.items():
                if process.exitcode and stage not in self._absent:
                    raise RunError(f"stage {stage} of {self._about()}: {self._why(stage)}")
            if time.monotonic() > end:
                raise RunError(f"{self._about()} was not done after {limit:.0f} s")
            time.sleep(_POLL)
        return [self._outcome(stage) for stage in sorted(self.jobs)]

    def close(self) -> None:
        """Kills what still runs."""
        for process in self._running.values():
            process.kill()
        for process in self._running.values():
            process.join()
            process.close()
        self._running.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self.close()

    def _about(self) -> str:
        job = next(iter(self.jobs.values()))
        return f"{job.role} in {job.stages} stages"

    def _outcome(self, stage: int) -> Outcome:
        job = self.jobs[stage]
        if not job.result_path.exists():
            raise RunError(f"stage {stage} of {self._about()}: {self._why(stage)}")
        return Outcome(job, read_timeline(job.times_path), json.loads(job.result_path.read_text()))

    def _why(self, stage: int) -> str:
        path = Path(self.jobs[stage].folder) / f"errors-{stage}.txt"
        lines = path.read_text(errors="replace").strip().splitlines()[-8:]
        return f"exit status {self._running[stage].exitcode}: " + " | ".join(lines)


def run_crew(place: Place, jobs: Sequence[Job], limit: float) -> list[Outcome]:
    """One pipeline, a stage on each host, or a single process on host 0, to its end.

    Args:
        place: the hosts.
        jobs: one for each stage; :attr:`Job.store` and :attr:`Job.interface` are filled in.
        limit: seconds.
    """
    with Crew(place) as crew:
        for job in jobs:
            crew.start(settled(job, crew), job.stage if len(jobs) > 1 else 0)
        return crew.wait(limit)


def settled(job: Job, crew: Crew) -> Job:
    """The job with what it has to know of where it runs."""
    return replace(job, store=crew.store, interface=crew.place.device)


def cores() -> list[int]:
    """The processor's cores that this process may use."""
    return sorted(os.sched_getaffinity(0))
