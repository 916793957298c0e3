"""One run from its configuration to its summary, stopped and resumed at will."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from synthgrad.lab.errors import UsageError
from synthgrad.lab.folder import RunFolder, versions
from synthgrad.lab.memory import enough_memory
from synthgrad.lab.pace import Pace
from synthgrad.lab.progress import progress
from synthgrad.lab.runnable import Runnable, Trains
from synthgrad.lab.signals import Stopped, noted_signals


def run(
    recipe: Runnable,
    config: Any,
    out: Path,
    *,
    data_root: Path | None = None,
    resume: bool = False,
    label: str | None = None,
) -> dict[str, Any]:
    """Runs a recipe into a folder, or goes on where the folder's run was stopped.

    Args:
        recipe: what to train.
        config: settings of the recipe's kind.
        out: the folder.
        data_root: where data sets are.
        resume: go on with what the folder holds.
        label: what progress is shown as; by default the method.

    Returns:
        What ``summary.json`` says.

    Raises:
        UsageError: a setting or the folder cannot be used as given.
        RunError: the folder is damaged, or there is not enough memory.
        Stopped: SIGINT or SIGTERM came; ``resume`` goes on from there.
    """
    config = recipe.settle(config)
    device = pick_device(config.device)
    if config.threads:
        torch.set_num_threads(config.threads)
    folder = RunFolder(out, {"recipe": recipe.name, **config.to_json()}, resume=resume)
    done = folder.finished()
    if done is not None:
        return done
    # Whatever is wrong with the settings comes up here, before anything is written.
    with enough_memory(config):
        trainer = recipe.trainer(config, recipe.load(data_root, device), device)
    folder.open()
    try:
        with enough_memory(config):
            return _train(recipe, config, trainer, folder, label or config.method)
    except BaseException:
        folder.abandon()
        raise


def _train(
    recipe: Runnable, config: Any, trainer: Trains, folder: RunFolder, name: str
) -> dict[str, Any]:
    """Trains from where the folder's run is to its end; returns its summary."""
    spent = 0.0
    state = folder.load()
    if state is not None:
        trainer.load_state_dict(state["trainer"])
        spent = state["seconds"]
    started = time.perf_counter() - spent
    values: dict[str, float] = {} if state is None else state["values"]
    saving = Pace()  # where a step takes microseconds, its checkpoints are far apart in steps
    with noted_signals() as stop, progress(name, config.iterations, trainer.step) as report:
        while trainer.step < config.iterations and not trainer.finished:
            trainer.advance()
            step, last = trainer.step, trainer.step == config.iterations
            if last or step % config.eval_every == 0:
                values = trainer.evaluate()
                last = last or trainer.finished
                folder.log(step, values)
                report(step, values)
            elif step % 20 == 0:
                report(step, {})
            if last or stop or (step % config.checkpoint_every == 0 and saving.due()):
                seconds = time.perf_counter() - started
                with saving.counted():
                    folder.save(
                        step,
                        {"trainer": trainer.state_dict(), "seconds": seconds, "values": values},
                    )
            if stop and not last:
                folder.close()
                raise Stopped(f"stopped at step {step}; the same command with --resume goes on")
    summary = {
        "recipe": recipe.name,
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


def pick_device(name: str) -> torch.device:
    """The device of a name, "auto" for a GPU where there is one.

    Raises:
        UsageError: there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"--device: {name!r} is not to be had here: {reason}") from None
    return torch.device(name)
