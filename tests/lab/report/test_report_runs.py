import json
import math
import re

import pytest

from synthgrad.errors import SynthgradError
from synthgrad.lab.errors import UsageError
from synthgrad.lab.report import ReportError
from synthgrad.lab.report.runs import read_run


def test_reads_a_finished_run(make_run):
    run = read_run(make_run("dni", 2, layers=3))
    assert (run.recipe, run.method, run.seed, run.layers) == ("mnist-fcn", "dni", 2, 3)
    assert run.summary is not None
    assert (run.summary.iterations, run.summary.seconds) == (3500, 42.5)
    assert run.summary.versions["torch"] == "2.13.0"
    assert run.last_step == 3500
    assert list(run.series["test_error"]) == list(range(50, 3501, 50))
    assert set(run.series) >= {"interface/hidden1/l2", "interface/hidden2/cosine"}


def test_unfinished_run_has_no_summary(make_run):
    run = read_run(make_run(finished=False))
    assert run.summary is None
    assert run.last_step == 1400


def test_run_that_has_logged_nothing_yet_is_a_run(make_run):
    folder = make_run(finished=False)
    (folder / "metrics.jsonl").unlink()
    run = read_run(folder)
    assert run.last_step == 0
    assert not run.series


@pytest.mark.parametrize("tail", ['{"step": 1450, "test_er', '{"step": 1450, "x": "\u00e9', "{"])
def test_line_that_a_kill_cut_off_is_ignored(make_run, tail):
    folder = make_run(finished=False)
    with open(folder / "metrics.jsonl", "ab") as file:
        file.write(tail.encode()[:-1] if tail.endswith("\u00e9") else tail.encode())
    assert read_run(folder).last_step == 1400


@pytest.mark.parametrize("line", ['{"step": 3, "test_er', "[3]", '{"loss": 1}', '{"step": "3"}'])
def test_broken_line_is_named(make_run, line):
    folder = make_run()
    path = folder / "metrics.jsonl"
    first, rest = path.read_text().split("\n", 1)
    path.write_text(f"{first}\n{line}\n{rest}")
    with pytest.raises(ReportError, match=rf"{re.escape(str(path))}, line 2, is broken"):
        read_run(folder)


def test_step_that_was_logged_twice_counts_once_and_last(make_run):
    folder = make_run(finished=False)
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 100, "test_error": 7}\n')
    series = read_run(folder).series["test_error"]
    assert series[100] == 7
    assert list(series) == sorted(series)


def test_only_numbers_are_metrics(make_run):
    folder = make_run()
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 1, "note": "hot", "ok": true, "gone": null, "train_loss": NaN}\n')
    series = read_run(folder).series
    assert not {"note", "ok", "gone", "step"} & set(series)
    assert math.isnan(series["train_loss"][1])


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", "{", "Invalid JSON"),
        ("config.json", "[]", "object"),
        ("config.json", '{"recipe": "r", "seed": 0}', "method: Field required"),
        ("config.json", '{"recipe": "r", "method": "dni", "seed": "x"}', "seed: "),
        ("summary.json", "", "Invalid JSON"),
        ("summary.json", '{"seconds": 1, "metrics": {}}', "iterations: Field required"),
        ("summary.json", '{"seconds": 1, "iterations": 1, "metrics": 3}', "metrics: "),
    ],
)
def test_broken_file_is_named(make_run, file, content, message):
    folder = make_run()
    (folder / file).write_text(content)
    with pytest.raises(
        ReportError, match=f"{re.escape(str(folder / file))} is broken: .*{message}"
    ):
        read_run(folder)


def test_what_is_no_run_folder_is_named(tmp_path):
    with pytest.raises(ReportError, match="nowhere is not a folder"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(ReportError, match=f"{tmp_path} is not a run folder: it has no config"):
        read_run(tmp_path)
    assert issubclass(ReportError, SynthgradError)
    assert issubclass(ReportError, ValueError)


def test_file_that_cannot_be_read_is_named(make_run):
    folder = make_run()
    (folder / "summary.json").unlink()
    (folder / "summary.json").mkdir()
    with pytest.raises(UsageError, match=r"summary\.json is not a file"):
        read_run(folder)


def test_settings_beyond_the_fixed_ones_are_kept(make_run):
    folder = make_run(learning_rate=3e-5)
    assert read_run(folder).config["learning_rate"] == 3e-5
    assert json.loads((folder / "config.json").read_text()) == read_run(folder).config
