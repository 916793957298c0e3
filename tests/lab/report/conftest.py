"""Run folders made of synthetic metrics."""

import json

import numpy as np
import pytest

VERSIONS = {
    "synthgrad": "0.1.0",
    "torch": "2.13.0",
    "python": "3.11.7",
    "machine": "Linux, 2 cores",
}

# How far each method gets, in percent.
FLOORS = {"backprop": 1.6, "none": 12.0, "dni": 4.0, "cdni": 1.5, "stale": 11.0}


@pytest.fixture
def make_run(tmp_path):
    """Makes a run folder with falling errors; `final` replaces the summary's metrics."""

    def make(
        method="cdni", seed=0, recipe="mnist-fcn", layers=4, final=None, finished=True, **settings
    ):
        iterations = settings.setdefault("iterations", 3500)
        name = "-".join(map(str, (recipe, layers, method, seed, *settings.values())))
        folder = tmp_path / "runs" / name.replace("/", "_")
        folder.mkdir(parents=True)
        config = {"recipe": recipe, "method": method, "seed": seed, "layers": layers, **settings}
        (folder / "config.json").write_text(json.dumps(config))
        steps = range(50, iterations * (10 if finished else 4) // 10 + 1, 50)
        lines = [metrics(method, seed, step, layers) for step in steps]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in lines))
        if finished:
            summary = {
                "recipe": recipe,
                "config": config,
                "iterations": iterations,
                "examples": 256 * iterations,
                "seconds": 40.5 + seed,
                "seed": seed,
                "metrics": final or {k: v for k, v in lines[-1].items() if k != "step"},
                "versions": VERSIONS,
            }
            (folder / "summary.json").write_text(json.dumps(summary))
        return folder

    return make


@pytest.fixture
def make_recurrent(tmp_path):
    """Makes a run folder without layers: lines of metrics, and the summary's unless unfinished."""

    def make(lines, final=None, method="dni", seed=0, recipe="copy", iterations=100, **settings):
        name = "-".join(map(str, (recipe, method, seed, *settings.values())))
        folder = tmp_path / "recurrent" / name.replace("/", "_")
        folder.mkdir(parents=True)
        config = {"recipe": recipe, "method": method, "seed": seed, "iterations": iterations}
        config |= {"unroll": 5, **settings}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in lines))
        if final is not None:
            summary = {"iterations": lines[-1]["step"], "seconds": 1.0, "metrics": final}
            (folder / "summary.json").write_text(json.dumps(summary))
        return folder

    return make


def metrics(method, seed, step, layers):
    """One line of metrics, as a run might log it."""
    noise = np.random.default_rng([seed, step, len(method)])
    error = (FLOORS.get(method, 5.0) + 85 * np.exp(-step / 150)) * noise.normal(1, 0.03)
    line = {
        "step": step,
        "train_loss": error / 30,
        "train_error": max(error - 1.55, 0),
        "test_error": error,
    }
    if method in ("dni", "cdni"):
        for i in range(layers - 1):
            reach = 1 - np.exp(-step / 300 / (layers - i))
            line |= {
                f"interface/hidden{i + 1}/l2": (2 - reach) / (i + 1) * noise.normal(1, 0.05),
                f"interface/hidden{i + 1}/cosine": 0.8 * reach * noise.normal(1, 0.05),
                f"interface/hidden{i + 1}/sign_error": 0.5 - 0.3 * reach * noise.normal(1, 0.05),
            }
    return line
