"""The update-locked pipelines of ``torch.distributed.pipelining``, over the same stages."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

from benchmarks.pipeline.job import Job
from benchmarks.pipeline.work import Task
from synthgrad.lab.experiments.feed_forward import loss_fn

SCHEDULES = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B}
_TIMEOUT = timedelta(seconds=120)


def train_locked(job: Job, task: Task, note: Callable[[int], None]) -> dict[str, Any]:
    """One stage. Labels are drawn where they are needed, so that only activations travel."""
    host, port = job.store.rsplit(":", 1)
    store = TCPStore(host, int(port), is_master=False, timeout=_TIMEOUT)
    dist.init_process_group(
        "gloo",
        store=PrefixStore("locked", store),
        rank=job.stage,
        world_size=job.stages,
        timeout=_TIMEOUT,
    )
    try:
        return _train(job, task, note)
    finally:
        dist.destroy_process_group()


def _train(job: Job, task: Task, note: Callable[[int], None]) -> dict[str, Any]:
    segment = task.segments[job.stage]
    stage = PipelineStage(segment, job.stage, job.stages, torch.device("cpu"))
    schedule = SCHEDULES[job.role](stage, n_microbatches=job.microbatches, loss_fn=loss_fn)
    optimizer = task.optimizer(segment.parameters())
    losses: list[torch.Tensor] = []
    for step in range(job.steps):
        task.before_step(step)
        note(step)
        optimizer.zero_grad()
        if job.stage == 0:
            schedule.step(task.batches(step)[0], return_outputs=False)
        elif job.stage == job.stages - 1:
            losses.clear()
            y = task.batches(step)[1]
            schedule.step(target=y, losses=losses, return_outputs=False)
        else:
            schedule.step(return_outputs=False)
        optimizer.step()
    mean = torch.stack(losses).mean().item() if losses else None
    gradients = {name: p.grad for name, p in segment.named_parameters()}
    return {"loss": mean, "gradients": _sums(gradients)}


def _sums(gradients: dict[str, torch.Tensor | None]) -> dict[str, list[float]]:
    """By parameter, the sum of the last step's gradient and of its squares; for tests."""
    found = {name: grad.double() for name, grad in gradients.items() if grad is not None}
    return {name: [g.sum().item(), g.square().sum().item()] for name, g in found.items()}
