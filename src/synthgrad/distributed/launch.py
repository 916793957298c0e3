"""All stages of a pipeline on this machine, each in a process of its own, watched from here."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from synthgrad import saved
from synthgrad.distributed.learner import LossFn
from synthgrad.distributed.options import Options, time_to_stop
from synthgrad.distributed.place import PeerError
from synthgrad.distributed.stage import Stage
from synthgrad.distributed.store import serve
from synthgrad.distributed.worker import Batches
from synthgrad.errors import ArgumentError, SynthgradError
from synthgrad.feedback import Feedback
from synthgrad.preserve import preserved
from synthgrad.schedule.optimizers import MakeOptimizer

log = logging.getLogger("synthgrad.distributed")
_POLL = 0.05
_WOULD_AGAIN = 3
"""The exit code of a stage that left an error which would come again."""


@dataclass(frozen=True)
class Trained:
    """What came out.

    Attributes:
        result: of the last evaluation.
        status: of each stage, at its end.
        restarts: how often each stage had to be started again.
    """

    result: dict[str, float]
    status: list[dict[str, Any]]
    restarts: list[int]


def train(
    segments: Sequence[nn.Module],
    feedback: Callable[[Tensor], Feedback] | Sequence[Feedback],
    *,
    batches: Batches,
    loss_fn: LossFn,
    optimizer: MakeOptimizer,
    steps: int,
    feedback_optimizer: MakeOptimizer | None = None,
    evaluation: Callable[[], Iterable[tuple[Tensor, Tensor]]] | None = None,
    evaluate_every: int = 0,
    metric: Callable[[Any, Tensor], Tensor] | None = None,
    options: Options | None = None,
    restarts: int = 3,
    resume: bool = False,
) -> Trained:
    """Trains segments as stages in processes of their own, and leaves them trained.

    A stage that dies is started again from its last checkpoint while the others run on. All
    functions are sent to the processes, so they have to live at the top level of a module, and the
    program that calls this has to do so under ``if __name__ == "__main__":``.

    Args:
        segments: the parts of the network (:func:`synthgrad.distributed.cut`).
        feedback: the feedback model behind each segment but the last; or makes one from a message.
        batches: as for :class:`Stage`, and so are the others of this name.
        loss_fn: as there.
        optimizer: as there.
        steps: batches to train on.
        feedback_optimizer: as there.
        evaluation: as there.
        evaluate_every: as there.
        metric: as there.
        options: of all stages. Without a folder, a temporary one is used.
        restarts: how often each stage may be started again.
        resume: go on from the checkpoints in the options' folder.

    Raises:
        ArgumentError: something cannot be sent to another process, or does not fit.
        SynthgradError: a stage failed more often than ``restarts`` allows; or its own error, where
            it would only come again.
        KeyboardInterrupt: every stage has stopped; those with a folder have a checkpoint.
    """
    options = options or Options()
    with tempfile.TemporaryDirectory(prefix="synthgrad-") as temporary:
        if options.folder is None:
            options = replace(options, folder=Path(temporary))
        models = _models(segments, feedback, batches)
        store = serve()
        shared = {
            "stages": len(segments),
            "store": f"127.0.0.1:{store.port}",
            "optimizer": optimizer,
            "feedback_optimizer": feedback_optimizer,
            "options": options,
        }
        specs = [{**shared, "index": i, "segment": s} for i, s in enumerate(segments)]
        for spec, model in zip(specs, models, strict=False):
            spec["feedback"] = model
        specs[0] |= {"batches": batches, "evaluation": evaluation, "evaluate_every": evaluate_every}
        specs[-1] |= {"loss_fn": loss_fn, "metric": metric}
        packed = [_packed(spec) for spec in specs]
        watched = _Watched(packed, steps, restarts, resume, limit=time_to_stop(options.timeout))
        status = watched.run()
        for index, segment in enumerate(segments):
            folder = options.stage_folder(index)
            assert folder is not None
            state = saved.load(folder)
            assert state is not None
            segment.load_state_dict(state["learner"]["segment"])
            if index < len(models):
                prefix = "feedback."
                stored = state["learner"]["interface"].items()
                own = {k.removeprefix(prefix): v for k, v in stored if k.startswith(prefix)}
                models[index].load_state_dict(own)
        result = {k: v for k, v in status[-1]["result"].items() if k != "step"}
        return Trained(result, status, watched.restarted)


def _models(
    segments: Sequence[nn.Module],
    feedback: Callable[[Tensor], Feedback] | Sequence[Feedback],
    batches: Batches,
) -> list[Feedback]:
    if not callable(feedback):
        models = list(feedback)
        if len(models) != len(segments) - 1:
            raise ArgumentError(
                f"{len(segments)} segments need {len(segments) - 1} feedback models, one behind "
                f"each but the last; got {len(models)}"
            )
        return models
    found = []
    h, _ = batches(0)
    for segment in segments[:-1]:
        with preserved(segment), torch.no_grad():
            h = segment(h)
        found.append(feedback(h))
    return found


def _packed(spec: dict[str, Any]) -> bytes:
    try:
        return pickle.dumps(spec)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ArgumentError(
            f"stage {spec['index']} cannot be sent to a process of its own: {error}. Functions "
            "have to be at the top level of a module"
        ) from None


class _Watched:
    """Processes that are started again when they die; ``limit``: seconds they have to stop."""

    def __init__(
        self, specs: list[bytes], steps: int, restarts: int, resume: bool, *, limit: float
    ) -> None:
        self._specs, self._steps, self._resume = specs, steps, resume
        self._allowed, self._limit = restarts, limit
        self._context = multiprocessing.get_context("spawn")
        self._folder = tempfile.TemporaryDirectory(prefix="synthgrad-status-")
        self._processes: list[Any] = []
        self.restarted = [0] * len(specs)

    def run(self) -> list[dict[str, Any]]:
        try:
            self._processes = [self._start(i, self._resume) for i in range(len(self._specs))]
            while any(process.exitcode != 0 for process in self._processes):
                for index, process in enumerate(self._processes):
                    if process.exitcode not in (None, 0):
                        self._again(index, process.exitcode)
                time.sleep(_POLL)
            return [pickle.loads(self._status(i).read_bytes()) for i in range(len(self._specs))]
        finally:
            for process in self._processes:
                process.terminate()  # a request to stop, with a checkpoint
            end = time.monotonic() + self._limit
            for process in self._processes:
                process.join(max(0.1, end - time.monotonic()))
                process.kill()
            self._folder.cleanup()

    def _start(self, index: int, resume: bool) -> Any:
        arguments = (self._specs[index], self._steps, resume, str(self._status(index)))
        process = self._context.Process(target=_work, args=arguments, daemon=True)
        process.start()
        return process

    def _again(self, index: int, code: int) -> None:
        said = pickle.loads(self._status(index).read_bytes()) if code == _WOULD_AGAIN else None
        if isinstance(said, SynthgradError):
            said.add_note(f"This came up in stage {index}.")
            raise said
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        if self.restarted[index] >= self._allowed:
            raise SynthgradError(
                f"stage {index} ended with {how}, for the {self.restarted[index] + 1}. time"
            )
        self.restarted[index] += 1
        log.warning("stage %d ended with %s and is started again", index, how)
        self._processes[index] = self._start(index, True)

    def _status(self, index: int) -> Path:
        return Path(self._folder.name) / f"{index}.pickle"


def _work(packed: bytes, steps: int, resume: bool, where: str) -> None:
    """What the process of one stage does."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    try:
        result: Any = _trained(packed, steps, resume)
    except PeerError:  # the other may be there next time
        raise
    except SynthgradError as error:
        result = error
    saved.write(Path(where), pickle.dumps(result), sync=False)
    if isinstance(result, SynthgradError):
        raise SystemExit(_WOULD_AGAIN)


def _trained(packed: bytes, steps: int, resume: bool) -> dict[str, Any]:
    stage = Stage(**pickle.loads(packed))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stage.stop())
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        stage.stop()

    threading.Thread(target=follow, daemon=True).start()
    return stage.run(steps, resume=resume)
