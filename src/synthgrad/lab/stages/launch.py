"""``synthgrad launch``: every stage in a process of its own, started again when it dies."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from synthgrad.distributed import (
    ChildError,
    Command,
    Supervisor,
    checkpoints,
    probe,
    serve,
    time_to_stop,
)
from synthgrad.errors import ArgumentError
from synthgrad.lab.errors import RunError, UsageError
from synthgrad.lab.experiments.images import FeedForwardConfig, ImageExperiment
from synthgrad.lab.runs.folder import RunFolder
from synthgrad.lab.runs.lock import alone, refuse_if_held
from synthgrad.lab.runs.progress import Report, progress
from synthgrad.lab.runs.run import pick_device
from synthgrad.lab.runs.signals import Stopped, noted_signals
from synthgrad.lab.stages.build import segments
from synthgrad.lab.stages.options import PipelineConfig, check_here, settled, to_json

log = logging.getLogger("synthgrad.lab")


def launch(
    recipe: ImageExperiment,
    config: FeedForwardConfig,
    pipeline: PipelineConfig,
    out: Path,
    *,
    store: str | None = None,
    restarts: int = 3,
    data_root: Path | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """Runs a recipe in stages on this machine, each in a process of its own.

    A stage that died is started again, from its checkpoint, while the others run on.

    Args:
        recipe: what to train.
        config: its settings.
        pipeline: how it is cut, and how the stages talk.
        out: the run folder.
        store: where the stages meet, "host:port"; None for a store of this command's own.
        restarts: how often each stage may be started again in a row, without having got further.
        data_root: where data sets are.
        resume: go on with what the folder holds.

    Returns:
        What ``summary.json`` says.

    Raises:
        UsageError: a setting or the folder cannot be used as given; or another process has it.
        RunError: no store answers; or a stage failed too often, or once with what would only come
            again.
        Stopped: SIGINT or SIGTERM came; every stage has stopped with a checkpoint.
    """
    config = settled(recipe, config)
    if not config.threads:  # all stages share the machine
        config = config.changed(threads=max(1, (os.cpu_count() or 1) // pipeline.stages))
    if restarts < 0:
        raise UsageError(f"--restarts: expected at least 0, got {restarts}")
    check_here(pipeline, store)
    folder = RunFolder(out, to_json(recipe, config, pipeline), resume=resume)
    if (done := folder.finished()) is not None:
        return done
    refuse_if_held(out)
    # Whatever is wrong with the settings, or the data, comes up here, before anything is written.
    segments(recipe, config, pipeline, recipe.load(data_root, pick_device(config.device)))
    try:
        if store is not None:
            probe(store)
    except ArgumentError as error:  # the address itself is one: it was checked above
        raise RunError(f"--store: {error}") from None
    kept = serve() if store is None else None
    where = f"127.0.0.1:{kept.port}" if kept is not None else str(store)
    last = out / f"stage-{pipeline.stages - 1}" / "status.json"
    supervisor = Supervisor(
        [_command(out, index, where, data_root) for index in range(pipeline.stages)],
        lambda index: checkpoints(out / f"stage-{index}"),
        restarts=restarts,
        grace=time_to_stop(pipeline.timeout) + 10,
        say=log.warning,
    )
    shown = -1

    def show() -> None:
        nonlocal shown
        shown = _show(last, shown, report)

    shows = progress(config.method, config.iterations)
    with noted_signals() as stop, alone(out), shows as report:
        folder.open()
        try:
            ended = supervisor.run(lambda: bool(stop), show)
        except ChildError as error:
            if error.report:
                text = error.report.decode(errors="replace")
                raise RunError(f"stage-{error.index}: {text}") from None
            raise RunError(f"{error}; {out}/stage-{error.index}/log.txt says more") from None
    if ended is None:
        raise Stopped("all stages have stopped; the same command with --resume goes on")
    summary = folder.finished()
    if summary is None:
        raise RunError(
            f"all stages ended, but wrote no summary.json; {out}/stage-*/log.txt says why"
        )
    return summary


def _command(out: Path, index: int, store: str, data_root: Path | None) -> Command:
    """How a stage is started; what it prints goes to its ``log.txt``."""
    work = ["synthgrad.lab.stages.work", str(out), str(index), store, str(data_root or "")]
    return Command(
        [sys.executable, "-m", *work],
        log=out / f"stage-{index}" / "log.txt",
        # More threads would spin for nothing where several processes share the cores.
        environment={"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")},
    )


def _show(path: Path, shown: int, report: Report) -> int:
    """Says how far the last stage is; returns the step of the last result that was shown."""
    try:
        status = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return shown
    result = status["result"]
    if not result or result["step"] == shown:
        report(status["step"], {})
        return shown
    values = {"train_loss": result.get("train_loss", 0.0)}
    if "metric" in result:
        values["test_error"] = result["metric"]
    report(result["step"], values)
    return result["step"]
