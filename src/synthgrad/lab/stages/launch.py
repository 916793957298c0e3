"""``synthgrad launch``: every stage in a process of its own, started again when it dies."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from synthgrad.distributed import serve
from synthgrad.distributed.options import time_to_stop
from synthgrad.lab.config import FeedForwardConfig
from synthgrad.lab.errors import RunError, UsageError
from synthgrad.lab.folder import RunFolder
from synthgrad.lab.progress import Report, progress
from synthgrad.lab.recipes import Recipe
from synthgrad.lab.run import pick_device
from synthgrad.lab.signals import Stopped, noted_signals
from synthgrad.lab.stages.build import segments
from synthgrad.lab.stages.options import PipelineConfig, check_here, settled, to_json
from synthgrad.lab.stages.work import LAUNCHER, MISTAKE

_POLL = 0.1


def launch(
    recipe: Recipe,
    config: FeedForwardConfig,
    pipeline: PipelineConfig,
    out: Path,
    *,
    store: str | None = None,
    restarts: int = 3,
    data_root: Path | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """Runs a recipe in stages on this machine, each under an elastic agent of its own.

    The agent (``torch.distributed.run``) starts a stage that died again, from its checkpoint,
    while the others run on.

    Args:
        recipe: what to train.
        config: its settings.
        pipeline: how it is cut, and how the stages talk.
        out: the run folder.
        store: where the stages meet, "host:port"; None for a store of this command's own.
        restarts: how often each stage may be started again.
        data_root: where data sets are.
        resume: go on with what the folder holds.

    Returns:
        What ``summary.json`` says.

    Raises:
        UsageError: a setting or the folder cannot be used as given.
        RunError: a stage failed too often, or once with what would only come again.
        Stopped: SIGINT or SIGTERM came; every stage has stopped with a checkpoint.
    """
    config = settled(recipe, config)
    if not config.threads:  # all stages share the machine
        config = config.changed(threads=max(1, (os.cpu_count() or 1) // pipeline.stages))
    if restarts < 0:
        raise UsageError(f"--restarts: expected at least 0, got {restarts}")
    check_here(pipeline)
    folder = RunFolder(out, to_json(recipe, config, pipeline), resume=resume)
    if (done := folder.finished()) is not None:
        return done
    # Whatever is wrong with the settings, or the data, comes up here, before anything is written.
    segments(recipe, config, pipeline, recipe.load(data_root, pick_device(config.device)))
    folder.open()
    kept = serve() if store is None else None
    where = f"127.0.0.1:{kept.port}" if kept is not None else str(store)
    agents: list[subprocess.Popen[bytes]] = []
    patience = time_to_stop(pipeline.timeout)
    ended = True
    try:
        with noted_signals() as stop, progress(config.method, config.iterations) as report:
            for index in range(pipeline.stages):
                agents += [_agent(index, out, where, restarts, data_root, patience)]
            shown = -1
            while any(agent.poll() is None for agent in agents):
                if stop:
                    ended = False
                    break
                if any(agent.poll() not in (None, 0) for agent in agents) or _mistakes(out):
                    break
                shown = _show(out / f"stage-{pipeline.stages - 1}" / "status.json", shown, report)
                time.sleep(_POLL)
    finally:
        codes = _stop(agents, patience + 10)
    if not ended:
        raise Stopped("all stages have stopped; the same command with --resume goes on")
    if mistakes := _mistakes(out):
        raise RunError("; ".join(mistakes))
    summary = folder.finished()
    if summary is None or any(codes):
        failed = ", ".join(str(i) for i, code in enumerate(codes) if code)
        what = f"stage {failed} failed" if failed else "all stages ended, but wrote no summary.json"
        raise RunError(f"{what}; {out}/stage-*/log.txt says why")
    return summary


def _mistakes(out: Path) -> list[str]:
    """What stages found that would only go wrong again."""
    found = sorted(out.glob(f"stage-*/{MISTAKE}"))
    return [f"{path.parent.name}: {path.read_text(encoding='utf-8')}" for path in found]


def _agent(
    index: int, out: Path, store: str, restarts: int, data_root: Path | None, patience: float
) -> subprocess.Popen[bytes]:
    """Starts one stage under its agent; what both print goes to the stage's ``log.txt``.

    Asked to stop, the agent leaves the stage ``patience`` seconds for its checkpoint.
    """
    where = out / f"stage-{index}"
    where.mkdir(parents=True, exist_ok=True)
    (where / MISTAKE).unlink(missing_ok=True)
    agent = ["torch.distributed.run", "--standalone", "--nnodes=1", "--nproc-per-node=1"]
    work = ["synthgrad.lab.stages.work", str(out), str(index), store, str(data_root or "")]
    command = [
        *[sys.executable, "-m", *agent, f"--max-restarts={restarts}", "--monitor-interval=0.1"],
        *["-m", *work],
    ]
    with open(where / "log.txt", "ab") as log:
        # In a session of its own, so that Ctrl-C comes through us alone, and once.
        return subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env={
                **os.environ,
                LAUNCHER: str(os.getpid()),
                # An option of the agent's command line only in newer versions.
                "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(math.ceil(patience)),
            },
        )


def _stop(agents: list[subprocess.Popen[bytes]], limit: float) -> list[int]:
    """Asks those that still run to stop, and sees that they do; returns all exit codes."""
    for agent in agents:
        if agent.poll() is None:
            agent.terminate()  # which hands it on to the stage
    end = time.monotonic() + limit
    for agent in agents:
        try:
            agent.wait(max(0.1, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(agent.pid, 9)
            agent.wait()
    return [agent.returncode for agent in agents]


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
