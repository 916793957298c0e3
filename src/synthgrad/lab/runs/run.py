"""One run from its configuration to its summary, stopped and resumed at will."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from synthgrad.errors import NonFiniteError
from synthgrad.lab.runs.divergence import Watch
from synthgrad.lab.errors import Diverged, RunError, UsageError
from synthgrad.lab.runs.folder import RunFolder, versions
from synthgrad.lab.runs.lock import alone, refuse_if_held
from synthgrad.lab.runs.memory import check_memory, enough_memory
from synthgrad.lab.runs.progress import progress
from synthgrad.lab.experiment import Experiment, Trainer
from synthgrad.lab.runs.signals import Stopped, noted_signals


def run(
    experiment: Experiment[Any, Any],
    config: Any,
    out: Path,
    *,
    data_root: Path | None = None,
    resume: bool = False,
    label: str | None = None,
) -> dict[str, Any]:
    """Runs an experiment into a folder, or goes on where the folder's run was stopped.

    Args:
        experiment: what to train.
        config: settings of its kind.
        out: the folder.
        data_root: where data sets are.
        resume: go on with what the folder holds.
        label: what progress is shown as; by default the method.

    Returns:
        What ``summary.json`` says.

    Raises:
        UsageError: a setting or the folder cannot be used as given; or another process has it.
        RunError: the folder is damaged or cannot be written, or there is not enough memory.
        Diverged: training went to infinity, or forgot what it had learned.
        Stopped: SIGINT or SIGTERM came; ``resume`` goes on from there.
    """
    config = experiment.settle(config)
    device = pick_device(config.device)
    if config.threads:
        torch.set_num_threads(config.threads)
    said = {"recipe": experiment.name, **config.to_json()}
    folder = RunFolder(out, said, resume=resume, needs_run=resume)
    done = folder.finished()
    if done is not None:
        return done
    # Whatever is wrong with the settings comes up here, before anything is written.
    refuse_if_held(out)
    check_memory(experiment.memory(config), config, device)
    with enough_memory(config):
        trainer = experiment.build(config, experiment.load(data_root, device), device)
    with noted_signals() as stop, alone(out), enough_memory(config):
        folder.open()
        if (done := folder.finished()) is not None:  # by another process, meanwhile
            return done
        try:
            return _train(experiment, config, trainer, folder, label or config.method, stop)
        except OSError as error:
            if error.errno is None:  # none of the system's
                raise
            name = error.filename or out
            raise RunError(
                f"{name}: {error.strerror}; --resume goes on from the last checkpoint"
            ) from error
        finally:
            folder.abandon()


def _train(
    experiment: Experiment[Any, Any],
    config: Any,
    trainer: Trainer,
    folder: RunFolder,
    name: str,
    stop: Sequence[int],
) -> dict[str, Any]:
    """Trains from where the folder's run is to its end; returns its summary."""
    state = folder.load()
    spent, values, watch, start = 0.0, {}, Watch(trainer.chance, {}), None
    if state is not None:
        trainer.load_state_dict(state["trainer"])
        spent, values = state["seconds"], state["values"]
        watch = Watch(trainer.chance, state.get("best", {}))
        watch.see(values)
    else:  # until there is a checkpoint
        start = copy.deepcopy(trainer.state_dict())
    started = time.perf_counter() - spent
    saving = Pace()  # where a step takes microseconds, its checkpoints are far apart in steps

    def state_now() -> dict[str, Any]:
        seconds = time.perf_counter() - started
        return {
            "trainer": trainer.state_dict(),
            "seconds": seconds,
            "values": values,
            "best": watch.best,
        }

    try:
        with progress(name, config.iterations, trainer.step) as report:
            while trainer.step < config.iterations and not trainer.finished:
                trainer.advance()
                step, last = trainer.step, trainer.step == config.iterations
                if last or step % config.eval_every == 0:
                    values = trainer.evaluate()
                    watch.see(values)
                    last = last or trainer.finished
                    folder.log(step, values)
                    report(step, values)
                elif step % 20 == 0:
                    report(step, {})
                if last or stop or (step % config.checkpoint_every == 0 and saving.due()):
                    with saving.counted():
                        folder.save(step, state_now())
                    start = None
                if stop and not last:
                    folder.close()
                    raise Stopped(f"stopped at step {step}; the same command with --resume goes on")
    except NonFiniteError as error:
        if start is not None:
            folder.keep({"trainer": start, "seconds": 0.0, "values": {}})
        raise Diverged(_diverged(trainer.step, str(error), folder)) from error
    if verdict := watch.verdict():
        raise Diverged(_diverged(trainer.step, verdict, folder))
    summary = {
        "recipe": experiment.name,
        "config": config.to_json(),
        "iterations": trainer.step,
        "examples": trainer.samples,
        "seconds": round(time.perf_counter() - started, 3),
        "seed": config.seed,
        "metrics": values | trainer.summary(),
        "versions": versions(),
    }
    folder.finish(summary)
    return summary


def _diverged(step: int, why: str, folder: RunFolder) -> str:
    return (
        f"training diverged by step {step}: {' '.join(why.split())}; {folder.path} has no summary, "
        "and --resume would repeat it from the last checkpoint: try a lower --learning-rate in "
        "another --out"
    )


def pick_device(name: str) -> torch.device:
    """The device of a name, "auto" for a GPU where there is one.

    Raises:
        UsageError: there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type == "cuda":
            torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ValueError, OverflowError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(f"--device: {name!r} is not to be had here: {reason}") from None
    if device.type not in ("cpu", "cuda") or (device.type == "cpu" and device.index):
        raise UsageError(f"--device: expected cpu, cuda, cuda:1 or auto, got {name!r}")
    return device


SHARE = 0.05
"""Of a run's time, what its checkpoints may take."""
FREE = 1.0
"""Seconds that count for nothing, so that short runs are not held back."""


class Pace:
    """Keeps something that is done now and then from taking more than its share of the time.

    Args:
        clock: tells the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._began = clock()
        self._taken = 0.0

    def due(self) -> bool:
        """Whether it has not taken its share yet."""
        return self._taken <= FREE + SHARE * (self._clock() - self._began)

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Counts the time of the block."""
        start = self._clock()
        try:
            yield
        finally:
            self._taken += self._clock() - start
