"""One process: the whole network by backpropagation, and one stage's work by itself."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.pipeline.job import Job
from benchmarks.pipeline.work import Task
from synthgrad.distributed import Learner
from synthgrad.lab.experiments.feed_forward import loss_fn
from synthgrad.lab.stages.build import wrong

_LATE = 4
"""Steps after which a target comes to a stage alone."""


def train_backprop(job: Job, task: Task, note: Callable[[int], None]) -> dict[str, Any]:
    """The joined network; evaluations count as time, as they do in a pipeline."""
    model = nn.Sequential(*task.segments)
    optimizer = task.optimizer(model.parameters())
    results: list[list[float]] = []
    for step in range(job.steps):
        if job.evaluate_every and step and step % job.evaluate_every == 0:
            results.append([time.monotonic(), step, _error(model, task)])
        task.before_step(step)
        note(step)
        x, y = task.batches(step)
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
    if job.evaluate_every:
        results.append([time.monotonic(), job.steps, _error(model, task)])
    return {"results": results}


@torch.no_grad()
def _error(model: nn.Module, task: Task) -> float:
    assert task.evaluation is not None
    model.eval()
    parts = [wrong(model(x), y) for x, y in task.evaluation()]
    model.train()
    return torch.cat(parts).mean().item()


def train_alone(job: Job, task: Task, note: Callable[[int], None]) -> dict[str, Any]:
    """A decoupled stage on messages, labels and targets that are there: no network, no waiting.

    What it computes is what a stage of a pipeline computes, by the same code. A target comes a few
    steps after its message, as it does from a stage above.
    """
    last = job.stage == job.stages - 1
    learner = Learner(
        task.segments[job.stage],
        task.optimizer,
        feedback=None if last else task.feedbacks[job.stage],
        loss_fn=loss_fn if last else None,
    )
    waiting: deque[Tensor] = deque()
    for step in range(job.steps):
        task.before_step(step)
        note(step)
        x, y = task.batches(step)
        h = x if job.stage == 0 else x.requires_grad_()
        _, message = learner.backward(learner.forward(h, y), y)
        if message is not None:
            waiting.append(message)
        if len(waiting) > _LATE:
            message = waiting.popleft()
            if learner.wants_targets:
                learner.fit(message, 1e-6 * message.detach())
    return {}
