"""One process of the benchmark."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.allocator import keep_freed_memory
from benchmarks.link import enter
from benchmarks.pipeline.job import Job, Role
from benchmarks.pipeline.timeline import UP, Timeline, resident_bytes
from benchmarks.pipeline.work import build
from synthgrad import checkpoint

_HERE = "benchmarks.pipeline"
# By name, so that a process loads only what its role needs.
ROLES: dict[Role, tuple[str, str]] = {
    "ours": ("decoupled", "train_decoupled"),
    "gpipe": ("locked", "train_locked"),
    "1f1b": ("locked", "train_locked"),
    "backprop": ("plain", "train_backprop"),
    "alone": ("plain", "train_alone"),
}
PROBES = 11
"""Moments of the run at which memory and processor time are noted: at its ends and each tenth."""


class Usage:
    """Memory and processor time over the steps of a run."""

    def __init__(self, steps: int) -> None:
        self._at = {steps * i // (PROBES - 1) for i in range(PROBES)} | {max(steps // 10, 1)}
        self.entries: list[dict[str, float]] = []

    def note(self, step: int) -> None:
        """Takes one where it is due."""
        if step in self._at:
            self.entries.append(
                {"step": step, "bytes": resident_bytes(), "cpu": time.process_time()}
            )


def work(job: Job) -> dict[str, Any]:
    """Does it in this process.

    Returns:
        What the role reports, and ``usage``.
    """
    if job.core is not None:
        os.sched_setaffinity(0, {job.core})
    torch.set_num_threads(job.threads)
    torch.set_flush_denormal(True)
    keep_freed_memory()
    module, name = ROLES[job.role]
    train: Callable[..., dict[str, Any]]
    train = getattr(importlib.import_module(f"{_HERE}.{module}"), name)
    usage = Usage(job.steps)
    task = build(job.work, job.stages)
    with Timeline(job.times_path) as timeline:

        def note(step: int) -> None:
            usage.note(step)
            timeline.note(step)

        timeline.note(UP)
        result = train(job, task, note)
    usage.note(job.steps)
    return {**result, "usage": usage.entries}


def begin(text: str, entrance: str | None) -> None:
    """What a new process runs: enters its host's network, works, and reports to the job's folder.

    Args:
        text: the job.
        entrance: of its host.
    """
    job = Job.from_json(text)
    errors = os.open(Path(job.folder) / f"errors-{job.stage}.txt", os.O_WRONLY | os.O_APPEND)
    os.dup2(errors, 1)
    os.dup2(errors, 2)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever started it
    if entrance is not None:
        enter(entrance)  # before there are other threads
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ["GLOO_SOCKET_IFNAME"] = job.interface
    result = work(job)
    checkpoint.write(job.result_path, json.dumps(result, default=str).encode())


def _end_with_parent() -> None:
    """Ends this process when the one that started it is gone, however it went."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
