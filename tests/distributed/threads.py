"""Stages of one pipeline as threads of this process: quick, and nothing is hidden."""

import threading
import time
from typing import Any
from weakref import WeakKeyDictionary

import torch

from synthgrad.distributed import Stage, serve


class Pipeline:
    """Runs stages side by side; what one raises, :meth:`join` raises."""

    def __init__(self, stages, steps, resume=False):
        self.stages = stages
        self.problems = []
        self.results: list[dict[str, Any]] = [{} for _ in stages]
        self.threads = [
            threading.Thread(target=self._run, args=(i, steps, resume), daemon=True)
            for i in range(len(stages))
        ]
        for thread in self.threads:
            thread.start()

    def _run(self, index, steps, resume):
        torch.set_num_threads(1)
        try:
            self.results[index] = self.stages[index].run(steps, resume=resume)
        except Exception as error:
            self.problems.append(error)

    def join(self, seconds=60):
        end = time.monotonic() + seconds
        while any(t.is_alive() for t in self.threads) and time.monotonic() < end:
            if self.problems:  # the others would only wait for the one that is gone
                break
            time.sleep(0.01)
        if self.problems:
            for stage in self.stages:
                stage.stop()
            raise self.problems[0]
        assert not any(thread.is_alive() for thread in self.threads), "a stage hangs"
        return self.results


_stores = WeakKeyDictionary()


def build(segments, feedbacks, *, options, batches, loss_fn, optimizer, transport=None, **settings):
    """The stages of a pipeline, on a store of their own (open as long as the first is kept).

    Or each on what ``transport()`` returns.
    """
    store: Any = serve() if transport is None else transport
    last = len(segments) - 1
    every = settings.pop("every_stage", {})
    stages = [
        Stage(
            segment,
            index=i,
            stages=len(segments),
            store=f"127.0.0.1:{store.port}" if transport is None else transport(),
            optimizer=optimizer,
            feedback=feedbacks[i] if i < last else None,
            loss_fn=loss_fn if i == last else None,
            batches=batches if i == 0 or "inputs" in every.get(i, {}) else None,
            options=options,
            **settings,
            **every.get(i, {}),
        )
        for i, segment in enumerate(segments)
    ]
    _stores[stages[0]] = store
    return stages
