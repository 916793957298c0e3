"""A small pipeline whose stages are processes, to be killed, stopped and started again."""

import json
import logging
import multiprocessing
import os
import signal
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from synthgrad import feedback
from synthgrad.distributed import Options, Stage, serve

# Forked from a process that has imported torch already: up in milliseconds.
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["synthgrad.distributed", "torch._dynamo"])


def batches(step):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(64, 8, generator=generator)
    return x, (x[:, 0] + x[:, 1] > 0).long() + 2 * (x[:, 2] > 0).long()


def unseen():
    return [batches(10**6 + i) for i in range(4)]


def errors(output, y):
    return 100.0 * (output.argmax(1) != y)


def _segment(index, stages):
    torch.manual_seed(index)
    width = 8 if index == 0 else 16
    if index == stages - 1:
        return nn.Linear(width, 4)
    return nn.Sequential(nn.Linear(width, 16), nn.BatchNorm1d(16), nn.ReLU())


def work(index, stages, port, steps, seconds, first, options):
    """One stage; each step takes at least so many seconds, and the first of the last so many."""
    waits = iter([first if index == stages - 1 else seconds])
    torch.set_num_threads(1)
    where = options.stage_folder(index)
    where.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(filename=where / "log.txt", level=logging.INFO, format="%(message)s")
    last = index == stages - 1
    stage = Stage(
        _segment(index, stages),
        index=index,
        stages=stages,
        store=f"127.0.0.1:{port}",
        optimizer=partial(torch.optim.Adam, lr=5e-3),
        feedback=None if last else feedback.Linear(16, context=4),
        loss_fn=F.cross_entropy if last else None,
        batches=batches if index == 0 else None,
        evaluation=unseen,
        metric=errors,
        before_step=lambda _: time.sleep(next(waits, seconds)),
        options=options,
    )
    signal.signal(signal.SIGTERM, lambda *_: stage.stop())
    stage.run(steps, resume=True)


def _store(port, ready):
    kept = serve(port)
    ready.put(kept.port)
    signal.pause()


class Pipeline:
    """Stages as processes, and the store as another; ``target`` is what a process runs."""

    def __init__(self, folder, stages, steps, *, seconds=0.01, first=0.01, target=work, **settings):
        self.target = target
        self.folder, self.stages, self.steps = Path(folder), stages, steps
        self.seconds, self.first = seconds, first
        given: dict[str, Any] = {"timeout": 3.0, "patience": 30.0, "checkpoint_every": 0.3}
        self.options = Options(**(given | settings), folder=self.folder)
        self.port = 0
        self.open_store()
        self.processes = [self._start(index) for index in range(stages)]

    def open_store(self):
        ready = context.Queue()
        self.store = context.Process(target=_store, args=(self.port, ready), daemon=True)
        self.store.start()
        self.port = ready.get(timeout=30)

    def _start(self, index):
        times = self.seconds, self.first
        arguments = (index, self.stages, self.port, self.steps, *times, self.options)
        process = context.Process(target=self.target, args=arguments, daemon=True)
        process.start()
        return process

    def again(self, index):
        """Starts a stage once more."""
        self.processes[index].join(10)
        self.processes[index] = self._start(index)

    def send(self, index, number):
        os.kill(self.processes[index].pid, number)
        if number == signal.SIGKILL:
            self.processes[index].join(10)

    def status(self, index) -> dict[str, Any]:
        try:
            return json.loads((self.folder / f"stage-{index}" / "status.json").read_text())
        except FileNotFoundError:
            return {"updates": 0, "step": 0, "generation_above": 0, "generation_below": 0}

    def log(self, index):
        return (self.folder / f"stage-{index}" / "log.txt").read_text()

    def until(self, index, ready, seconds: float = 40):
        """Waits until a stage's status is as wanted; returns it."""
        end = time.monotonic() + seconds
        while not ready(status := self.status(index)):
            assert time.monotonic() < end, status
            time.sleep(0.02)
        return status

    def join(self, seconds=60):
        end = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0, end - time.monotonic()))
        codes = [process.exitcode for process in self.processes]
        logs = [self.log(index) for index in range(self.stages)]
        assert codes == [0] * self.stages, (codes, logs)
        return [self.status(index) for index in range(self.stages)]

    def close(self):
        for process in [*self.processes, self.store]:
            process.kill()
            process.join(10)


@contextmanager
def pipeline(folder, stages, steps, **settings):
    made = Pipeline(folder, stages, steps, **settings)
    try:
        yield made
    finally:
        made.close()
