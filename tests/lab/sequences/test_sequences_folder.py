"""What is not known yet is null in a run's files, which all readers of JSON can read."""

import json
import math

import pytest

from benchmarks import recurrent
from synthgrad.lab.errors import UsageError
from synthgrad.lab.experiments import ALL
from synthgrad.lab.report.runs import read_run
from synthgrad.lab.runs.folder import RunFolder
from synthgrad.lab.runs.run import run


def _never(constant):
    raise AssertionError(f"{constant} is not JSON")


def test_nan_and_infinity_are_null(tmp_path):
    config = {"recipe": "copy", "method": "dni", "seed": 0}
    folder = RunFolder(tmp_path / "run", config, resume=False)
    folder.open()
    folder.log(1, {"error": math.nan, "bits": 1.5})
    summary = {"iterations": 1, "seconds": 0.1, "metrics": {"a": math.inf, "b": [1, math.nan]}}
    folder.finish(summary)
    line = json.loads(folder.metrics.read_text(), parse_constant=_never)
    assert line == {"step": 1, "error": None, "bits": 1.5}
    text = (folder.path / "summary.json").read_text()
    assert json.loads(text, parse_constant=_never)["metrics"] == {"a": None, "b": [1, None]}
    assert folder.finished() is not None
    found = read_run(folder.path)
    assert found.series == {"bits": {1: 1.5}}
    assert found.summary is not None
    assert found.summary.metrics == {}


def test_a_run_whose_level_was_never_checked(tmp_path):
    recipe = ALL["copy"]
    tiny = {"units": 4, "batch_size": 2, "iterations": 2, "eval_every": 1, "checkpoint_every": 1}
    config = recipe.defaults.changed(method="dni", device="cpu", **tiny)
    run(recipe, config, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()  # as if it had been killed before
    run(recipe, config, tmp_path / "run", resume=True)
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        assert json.loads(line, parse_constant=_never)["level_bits"] is None
    assert "level_bits" not in read_run(tmp_path / "run").series
    assert run(recipe, config, tmp_path / "run", resume=True)["metrics"]["level_bits"] is None


def test_a_benchmark_of_no_unroll():
    options = {"units": 4, "batch_size": 2, "precision": "float32", "device": "cpu"}
    with pytest.raises(UsageError, match="--unrolls: expected at least one T"):
        recurrent.main(1, unrolls=(), **options)
