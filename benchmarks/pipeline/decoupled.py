"""One stage of a decoupled pipeline."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.pipeline.job import Job
from benchmarks.pipeline.work import Task
from synthgrad.distributed import Options, Stage
from synthgrad.lab.experiments.feed_forward import loss_fn
from synthgrad.lab.stages.build import wrong


def train_decoupled(job: Job, task: Task, note: Callable[[int], None]) -> dict[str, Any]:
    """Runs it to its end, with what :meth:`synthgrad.distributed.Stage.status` says."""
    first, last = job.stage == 0, job.stage == job.stages - 1
    results: list[list[float]] = []

    def before(step: int) -> None:
        task.before_step(step)
        note(step)

    def result(step: int, values: dict[str, float]) -> None:
        if "metric" in values:
            results.append([time.monotonic(), step, values["metric"]])

    stage = Stage(
        task.segments[job.stage],
        index=job.stage,
        stages=job.stages,
        store=job.store,
        optimizer=task.optimizer,
        feedback=None if last else task.feedbacks[job.stage],
        loss_fn=loss_fn if last else None,
        batches=task.batches if first else None,
        before_step=before,
        evaluation=task.evaluation if first and job.evaluate_every else None,
        evaluate_every=job.evaluate_every,
        metric=wrong if last and job.evaluate_every else None,
        on_result=result if last else None,
        options=Options(
            window=job.window or "auto",
            timeout=job.timeout,
            checkpoint_every=job.checkpoint_every,
            folder=Path(job.folder),
            fingerprint=repr(job.work),
        ),
    )
    signal.signal(signal.SIGTERM, lambda *_: stage.stop())
    status = stage.run(job.steps, resume=job.resume)
    return {"status": status, "results": results}
