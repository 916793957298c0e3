"""All stages of a pipeline on this machine, each in a process of its own, watched from here."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing import spawn
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from synthgrad import checkpoint
from synthgrad._optimizers import MakeOptimizer
from synthgrad._sandbox import preserved
from synthgrad._sharing import held
from synthgrad.distributed._cut import refuse_shared
from synthgrad.distributed._learner import LossFn, outgoing
from synthgrad.distributed._place import PeerError
from synthgrad.distributed._supervisor import (
    LARGEST_REPORT,
    MISTAKE,
    ChildError,
    Command,
    Supervised,
    Supervisor,
)
from synthgrad.distributed._worker import Batches
from synthgrad.distributed.options import Options, time_to_stop
from synthgrad.distributed.stage import Stage
from synthgrad.distributed.transport import serve
from synthgrad.errors import ArgumentError, SynthgradError
from synthgrad.feedback import Feedback
from synthgrad.interface import Interface

log = logging.getLogger("synthgrad.distributed")
Model = Feedback | Interface
_BEGIN = """\
import pickle, sys
from multiprocessing import spawn
with open(sys.argv[1], "rb") as file:
    spawn.prepare(pickle.load(file))
    work, *given = pickle.load(file)
work(*given)
"""
"""What the process of a stage runs, given a file that :func:`_command` wrote."""


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
    feedback: Callable[[Tensor], Model] | Sequence[Model],
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
        feedback: the feedback model behind each segment but the last, or an interface with it
            (:class:`Stage`); or a function that makes one from a message.
        batches: as for :class:`Stage`, and so are the others of this name.
        loss_fn: as there.
        optimizer: as there.
        steps: batches to train on.
        feedback_optimizer: as there.
        evaluation: as there.
        evaluate_every: as there.
        metric: as there.
        options: of all stages. Without a folder, a temporary one is used.
        restarts: how often each stage may be started again in a row, with no newer checkpoint in
            between.
        resume: go on from the checkpoints in the options' folder.

    Raises:
        ArgumentError: something cannot be sent to another process, or does not fit.
        LockingError: two stages share a parameter, a buffer or memory, as tied weights do; or a
            feedback model shares one with another stage.
        SynthgradError: a stage died more often than ``restarts`` allows; or raised what would only
            come again: its own error, or one whose cause is the exception of the user's functions.
        KeyboardInterrupt: every stage has stopped; those with a folder have a checkpoint.
    """
    options = options or Options()
    with tempfile.TemporaryDirectory(prefix="synthgrad-") as temporary:
        private = Path(temporary)
        folder = options.folder or private
        options = replace(options, folder=folder)
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
        commands = [
            _command(private, index, work, steps, private / f"begun-{index}", resume)
            for index, work in enumerate(packed)
        ]

        def progress(index: int) -> list[Path]:
            return checkpoints(folder / f"stage-{index}")

        supervisor = Supervisor(
            commands,
            progress,
            restarts=restarts,
            grace=time_to_stop(options.timeout),
            say=log.warning,
        )
        try:
            reports = supervisor.run()
        except ChildError as error:
            if not error.report:
                raise
            said, cause = pickle.loads(error.report)
            raise said from cause
        assert reports is not None
        status = [pickle.loads(report) for report in reports]
        for index, segment in enumerate(segments):
            state = checkpoint.load(folder / f"stage-{index}")
            assert state is not None
            segment.load_state_dict(state["learner"]["segment"])
            if index < len(models):
                _load(models[index], state["learner"]["interface"])
        result = {k: v for k, v in status[-1]["result"].items() if k != "step"}
        return Trained(result, status, supervisor.restarted)


def _models(
    segments: Sequence[nn.Module],
    feedback: Callable[[Tensor], Model] | Sequence[Model],
    batches: Batches,
) -> list[Model]:
    """What stands behind each segment but the last.

    Raises:
        ArgumentError: there are more or fewer, or one stands in two places.
        LockingError: two stages share what one of them changes; or an interface mixes in the real
            error.
    """
    for index, segment in enumerate(segments):
        if not isinstance(segment, nn.Module):
            raise ArgumentError(f"segment {index} must be a module, got {type(segment).__name__}")
    own = [held(segment, f"segment {index}") for index, segment in enumerate(segments)]
    refuse_shared(own)
    random = torch.get_rng_state()
    try:
        models = list(_made(segments, feedback, batches) if callable(feedback) else feedback)
        if len(models) != len(segments) - 1:
            raise ArgumentError(
                f"{len(segments)} segments need {len(segments) - 1} feedback models, one behind "
                f"each but the last; got {len(models)}"
            )
        for index, model in enumerate(models):
            if not isinstance(model, Feedback | Interface):
                raise ArgumentError(
                    f"what stands behind segment {index} must be a Feedback, got "
                    f"{type(model).__name__}"
                )
            if (first := models.index(model)) != index:
                raise ArgumentError(
                    f"one and the same feedback model ({type(model).__name__}) stands behind "
                    f"segments {first} and {index}; expected one for each, as each learns from "
                    "errors of its own"
                )
            outgoing(model)
            own[index] += held(model, f"the feedback model behind segment {index}")
        refuse_shared(own)
    except SynthgradError:
        torch.set_rng_state(random)  # what is refused leaves nothing behind
        raise
    return models


def _made(
    segments: Sequence[nn.Module],
    feedback: Callable[[Tensor], Model],
    batches: Batches,
) -> Iterator[Model]:
    h, _ = batches(0)
    for segment in segments[:-1]:
        with preserved(segment), torch.no_grad():
            h = segment(h)
        yield feedback(h)


def _load(model: Model, stored: dict[str, Any]) -> None:
    """Puts what a stage has learned, the state of its interface, into what stands behind it."""
    if isinstance(model, Feedback):
        prefix = "feedback."
        stored = {k.removeprefix(prefix): v for k, v in stored.items() if k.startswith(prefix)}
    model.load_state_dict(stored)


def _packed(spec: dict[str, Any]) -> bytes:
    try:
        return pickle.dumps(spec)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ArgumentError(
            f"stage {spec['index']} cannot be sent to a process of its own: {error}. Functions "
            "have to be at the top level of a module"
        ) from None


def _command(folder: Path, index: int, *work: Any) -> Command:
    """How a process is started that calls :func:`_work`."""
    path = folder / f"stage-{index}.pickle"
    # It begins as multiprocessing's own do: with this process's search path and main module.
    here = spawn.get_preparation_data(f"stage {index}")
    here.pop("authkey", None)
    path.write_bytes(pickle.dumps(here) + pickle.dumps((_work, index, *work)))
    return Command([sys.executable, "-c", _BEGIN, str(path)])


def _work(index: int, packed: bytes, steps: int, begun: Path, resume: bool) -> NoReturn:
    """What the process of one stage does.

    Args:
        index: which.
        packed: what it is made of.
        steps: of the run.
        begun: a file that says that an earlier process of this stage has begun its part of the run.
        resume: whether the first one goes on with an earlier run.
    """
    supervised = Supervised()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    try:
        stage = Stage(**pickle.loads(packed))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stage.stop())
        if stage.worker.folder is not None and not (resume or begun.exists()):
            for old in checkpoints(stage.worker.folder):
                old.unlink()
        begun.touch()
        status = stage.run(steps, resume=True)
    except PeerError as error:  # the other may be there next time
        supervised.end(1, str(error).encode())
    except BaseException as error:  # the user's SystemExit as well: all these would come again
        supervised.end(MISTAKE, _as_report(error, index))
    # Whoever stopped it was not the supervisor, where that hears of it: then it is needed.
    supervised.end(0 if status["state"] == "finished" else 130, pickle.dumps(status))


def _as_report(error: BaseException, index: int) -> bytes:
    """An error and its cause, to be raised where the stages were launched from."""
    text = f"{type(error).__name__}: {error}"[:4000]
    plain = SynthgradError(f"stage {index}: {text}")
    where = "".join(traceback.format_exception(error))[-8000:].rstrip()  # the cause comes last
    plain.add_note(f"In the process of stage {index}:\n{where}")
    said: tuple[SynthgradError, BaseException | None] = plain, error
    if isinstance(error, SynthgradError):
        error.add_note(f"This came up in stage {index}.")
        said = error, None
    try:
        report = pickle.dumps(said)
        pickle.loads(report)
        if len(report) <= LARGEST_REPORT:
            return report
    except Exception:  # one that cannot be made again from what it says
        pass
    return pickle.dumps((plain, None))


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a stage; others, once it has got further."""
    return sorted(folder.glob("step-*.pt"))
