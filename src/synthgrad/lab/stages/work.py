"""The process of one stage: ``synthgrad stage``, and what ``synthgrad launch`` starts."""

from __future__ import annotations

import json
import logging
import signal
import sys
import time
from pathlib import Path

import torch

from synthgrad.distributed import MISTAKE, PeerError, Stage, Supervised
from synthgrad.errors import SynthgradError
from synthgrad.lab.errors import UsageError
from synthgrad.lab.experiments.image_recipes import RECIPES
from synthgrad.lab.experiments.images import FeedForwardConfig, ImageExperiment
from synthgrad.lab.runs.folder import RunFolder, versions
from synthgrad.lab.runs.run import pick_device
from synthgrad.lab.runs.signals import SIGNALS, Stopped
from synthgrad.lab.stages.build import build
from synthgrad.lab.stages.options import PipelineConfig, check_here, settled, to_json

log = logging.getLogger("synthgrad.lab")


def work(
    recipe: ImageExperiment,
    config: FeedForwardConfig,
    pipeline: PipelineConfig,
    *,
    index: int,
    store: str,
    out: Path,
    data_root: Path | None,
    resume: bool,
) -> None:
    """Runs one stage to its end. The last one writes the metrics and the summary.

    Raises:
        UsageError: a setting or the folder cannot be used as given.
        Stopped: SIGINT or SIGTERM came; ``resume`` goes on from there.
    """
    config = settled(recipe, config)
    check_here(pipeline, store)
    if config.threads:
        torch.set_num_threads(config.threads)
    folder = RunFolder(out, to_json(recipe, config, pipeline), resume=True)  # the stages share it
    if not resume and any((out / f"stage-{index}").glob("step-*.pt")):
        raise UsageError(
            f"--out: {out} already holds a run of stage {index}; give another folder, or --resume"
        )
    began, spent = time.perf_counter(), 0.0

    def seconds() -> float:
        return spent + time.perf_counter() - began

    def on_result(step: int, values: dict[str, float]) -> None:
        folder.log(step, _named(values) | {"seconds": round(seconds(), 3)})

    data = recipe.load(data_root, pick_device(config.device))
    stage = build(
        recipe,
        config,
        pipeline,
        data,
        index=index,
        store=store,
        out=out,
        on_result=on_result,
    )
    folder.open()
    if resume:
        spent = _spent(folder.metrics)
    before = [signal.signal(number, lambda *_: stage.stop()) for number in SIGNALS]
    try:
        status = stage.run(config.iterations, resume=resume)
    finally:
        for number, handler in zip(SIGNALS, before, strict=True):
            signal.signal(number, handler)
        folder.close()
    if status["state"] != "finished":
        raise Stopped(
            f"stage {index} stopped at step {status['step']}; --resume goes on from there"
        )
    if index == pipeline.stages - 1:
        _finish(folder, recipe, config, stage, round(seconds(), 3))


def _finish(
    folder: RunFolder,
    recipe: ImageExperiment,
    config: FeedForwardConfig,
    stage: Stage,
    seconds: float,
) -> None:
    status = stage.status()
    result = {k: v for k, v in status["result"].items() if k != "step"}
    folder.finish(
        {
            "recipe": recipe.name,
            "config": folder.config,
            "iterations": config.iterations,
            "examples": status["updates"] * config.batch_size,
            "seconds": seconds,
            "seed": config.seed,
            "metrics": _named(result),
            "versions": versions(),
        }
    )


def _named(values: dict[str, float]) -> dict[str, float]:
    names = {"metric": "test_error"}
    return {names.get(k, k): v for k, v in values.items() if k != "examples"}


def _spent(metrics: Path) -> float:
    """The seconds of the run so far, as its last line says."""
    if not metrics.exists():
        return 0.0
    lines = metrics.read_text(encoding="utf-8").splitlines()
    return float(json.loads(lines[-1]).get("seconds", 0.0)) if lines else 0.0


def main() -> None:
    """``python -m synthgrad.lab.stages.work OUT INDEX STORE DATA_ROOT``: a launched stage.

    The run folder's ``config.json`` says all the rest. A stage that is started again goes on from
    its checkpoint.
    """
    supervised = Supervised()
    out, index, store, data_root = sys.argv[1:]
    logging.basicConfig(level=logging.INFO, format=f"stage {index}: %(message)s")
    try:
        found = json.loads((Path(out) / "config.json").read_text(encoding="utf-8"))
        recipe = RECIPES[found.pop("recipe")]
        pipeline = PipelineConfig(**found.pop("pipeline"))
        work(
            recipe,
            FeedForwardConfig(**found),
            pipeline,
            index=int(index),
            store=store,
            out=Path(out),
            data_root=Path(data_root) if data_root else None,
            resume=True,
        )
    except Stopped:
        # The supervisor takes this for a death where it did not ask for it: the stage is needed.
        supervised.end(130)
    except SynthgradError as error:
        log.error("%s", error)  # and no print, which would fail itself where the disk is full
        # Where another stage did not come, it may be there next time.
        supervised.end(1 if isinstance(error, PeerError) else MISTAKE, str(error).encode())
    except Exception as error:
        log.exception("it failed")
        supervised.end(MISTAKE, f"{type(error).__name__}: {' '.join(str(error).split())}".encode())
    supervised.end(0)


if __name__ == "__main__":
    main()
