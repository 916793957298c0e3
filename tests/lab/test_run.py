"""Runs that are stopped, killed and resumed end with the numbers of an unbroken one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from synthgrad.lab.data import DataSet
from synthgrad.lab.errors import UsageError
from synthgrad.lab.experiments.image_recipes import RECIPES
from synthgrad.lab.experiments.images import ImageTrainer
from synthgrad.lab.runs.folder import RunFolder
from synthgrad.lab.runs.run import run
from tests.tape import TapeRecorder

DIGITS = RECIPES["digits-fcn"]
SHORT = {"iterations": 60, "eval_every": 10, "checkpoint_every": 15, "units": 16, "threads": 1}


def _config(**values):
    return DIGITS.defaults.changed(**(SHORT | values))


def _numbers(folder: Path):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines], json.loads((folder / "summary.json").read_text())[
        "metrics"
    ]


def test_a_run_folder_holds_what_it_should(tmp_path):
    summary = run(DIGITS, _config(), tmp_path / "run")
    names = {p.name.split(".")[0] for p in (tmp_path / "run").iterdir()}
    assert names == {"config", "metrics", "summary", "checkpoint", "events"}
    assert summary["examples"] == 60 * 256
    lines, metrics = _numbers(tmp_path / "run")
    assert [line["step"] for line in lines] == [10, 20, 30, 40, 50, 60]
    assert metrics == {k: v for k, v in lines[-1].items() if k != "step"}
    assert -1 <= metrics["interface/hidden1/cosine"] <= 1
    assert json.loads((tmp_path / "run" / "config.json").read_text())["recipe"] == "digits-fcn"


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "cdni"},
        {"method": "dni", "feedback_hidden": (8,), "warmup": 20},
        {"method": "stale"},
        {"method": "cdni", "unlock": "update"},
        {"method": "cdni", "p_update": 0.5},
        {"method": "cdni", "unlock": "full", "p_update": 0.8},
        {"method": "cdni", "unlock": "update", "feedback_learning_rate": 3e-3},
    ],
    ids=str,
)
def test_resumed_after_a_stop_equals_unbroken(tmp_path, settings, monkeypatch):
    config = _config(**settings)
    run(DIGITS, config, tmp_path / "whole")
    _interrupt_at(monkeypatch, 37)
    with pytest.raises(_Pulled):
        run(DIGITS, config, tmp_path / "broken")
    monkeypatch.undo()
    assert not (tmp_path / "broken" / "summary.json").exists()
    run(DIGITS, config, tmp_path / "broken", resume=True)
    assert _numbers(tmp_path / "broken") == _numbers(tmp_path / "whole")


class _Pulled(Exception):
    """The plug."""


def _interrupt_at(monkeypatch, step):

    advance = ImageTrainer.advance

    def pulled(self):
        if self.step == step:
            raise _Pulled
        advance(self)

    monkeypatch.setattr(ImageTrainer, "advance", pulled)


def _command(out: Path, *more: str) -> list[str]:
    options = ["--units", "16", "--iterations", "1500", "--eval-every", "50", "--threads", "1"]
    options += ["--checkpoint-every", "60", "--out", str(out)]
    return [sys.executable, "-m", "synthgrad.lab.cli", "run", "digits-fcn", *options, *more]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_resumed_after_a_signal_equals_unbroken(tmp_path, number):
    subprocess.run(_command(tmp_path / "whole"), check=True, capture_output=True)
    process = subprocess.Popen(_command(tmp_path / "broken"), stderr=subprocess.PIPE, text=True)
    checkpoints = tmp_path / "broken" / "checkpoint"
    until = time.monotonic() + 60
    while not list(checkpoints.glob("step-*")) and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(process.pid, number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGTERM else -number), said
    assert not (tmp_path / "broken" / "summary.json").exists()
    subprocess.run(_command(tmp_path / "broken", "--resume"), check=True, capture_output=True)
    assert _numbers(tmp_path / "broken") == _numbers(tmp_path / "whole")


def test_a_finished_run_is_not_run_again(tmp_path):
    first = run(DIGITS, _config(iterations=10), tmp_path)
    assert run(DIGITS, _config(iterations=10), tmp_path, resume=True) == first


def test_a_folder_with_a_run_is_kept(tmp_path):
    run(DIGITS, _config(iterations=10), tmp_path)
    with pytest.raises(UsageError, match="already holds a run"):
        run(DIGITS, _config(iterations=10), tmp_path)
    with pytest.raises(UsageError, match="layers is 4 there and 5 here"):
        run(DIGITS, _config(iterations=10, layers=5), tmp_path, resume=True)
    with pytest.raises(UsageError, match="recipe is 'digits-fcn' there and 'mnist-fcn' here"):
        run(RECIPES["mnist-fcn"], _config(iterations=10), tmp_path, resume=True)


def test_where_it_runs_may_differ_on_resuming(tmp_path):
    first = run(DIGITS, _config(iterations=10), tmp_path)
    assert run(DIGITS, _config(iterations=10, device="cpu"), tmp_path, resume=True) == first


def test_inline_and_unlocked_train_alike(tmp_path):
    inline = run(DIGITS, _config(), tmp_path / "inline")["metrics"]
    unlocked = run(DIGITS, _config(unlock="update"), tmp_path / "unlocked")["metrics"]
    assert unlocked == pytest.approx(inline, rel=1e-3, abs=1e-3)


def test_nothing_is_written_when_the_settings_do_not_fit(tmp_path):
    with pytest.raises(UsageError, match="--batch-size: 5000 is more than the 1437"):
        run(DIGITS, _config(batch_size=5000), tmp_path / "run")
    with pytest.raises(UsageError, match="--device: 'cuda:7'"):
        run(DIGITS, _config(device="cuda:7"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_held_out_part_is_not_trained_on(tmp_path):
    summary = run(DIGITS, _config(validation=1100), tmp_path)
    assert 0 <= summary["metrics"]["validation_error"] <= 100


def test_cdni_learns_where_no_feedback_does_not(tmp_path):
    long = {"iterations": 400, "eval_every": 400, "units": 32}
    cdni = run(DIGITS, _config(**long), tmp_path / "cdni")["metrics"]["test_error"]
    none = run(DIGITS, _config(method="none", **long), tmp_path / "none")["metrics"]["test_error"]
    assert cdni < 5
    assert none > 15


@pytest.mark.parametrize("settings", [{"method": "dni", "feedback_hidden": (8,), "warmup": 20}, {}])
def test_a_replayed_run_equals_a_plain_one_also_when_resumed(tmp_path, settings, monkeypatch):
    config = _config(**settings)
    run(DIGITS, config, tmp_path / "plain")
    monkeypatch.setattr("synthgrad.lab.experiments.images.recorder_for", lambda *_: TapeRecorder())
    run(DIGITS, config, tmp_path / "whole")
    with monkeypatch.context() as plug:
        _interrupt_at(plug, 37)
        with pytest.raises(_Pulled):
            run(DIGITS, config, tmp_path / "broken")
    run(DIGITS, config.changed(graph="no"), tmp_path / "broken", resume=True)
    assert _numbers(tmp_path / "broken") == _numbers(tmp_path / "whole")
    assert _numbers(tmp_path / "whole") == _numbers(tmp_path / "plain")


def test_a_run_from_before_an_option_of_speed_was_there_goes_on(tmp_path):
    first = run(DIGITS, _config(iterations=10), tmp_path)
    path = tmp_path / "config.json"
    stored = json.loads(path.read_text())
    del stored["graph"]
    path.write_text(json.dumps(stored))
    assert run(DIGITS, _config(iterations=10), tmp_path, resume=True) == first


def test_the_summary_says_how_often_each_layer_was_updated(tmp_path):
    for name, settings in {"sporadic": {}, "full": {"unlock": "full"}}.items():
        config = _config(method="cdni", p_update=0.5, iterations=100, **settings)
        updates = run(DIGITS, config, tmp_path / name)["metrics"]["updates"]
        assert list(updates) == ["hidden1", "hidden2", "hidden3", "output"]
        assert all(25 < count < 75 for count in updates.values())


def test_synthetic_inputs_of_images_are_refused():
    cnn = RECIPES["mnist-cnn"]
    config = cnn.defaults.changed(unlock="full", units=4, layers=3)
    x, y = torch.rand(8, 1, 28, 28), torch.zeros(8).long()
    data = DataSet("mnist", x, y, x, y, classes=10)
    with pytest.raises(UsageError, match=r"--unlock full predicts messages of features"):
        cnn.trainer(config.changed(batch_size=4), data, torch.device("cpu"))


def test_how_long_stages_wait_may_differ_and_is_kept(tmp_path):
    config = {"recipe": "r", "pipeline": {"window": 4, "timeout": 10.0}}
    RunFolder(tmp_path, config, resume=False).open()
    patient = {"recipe": "r", "pipeline": {"window": 4, "timeout": 60.0}}
    RunFolder(tmp_path, patient, resume=True).open()
    assert json.loads((tmp_path / "config.json").read_text()) == patient
    wider = {"recipe": "r", "pipeline": {"window": 8, "timeout": 60.0}}
    with pytest.raises(UsageError, match=r"pipeline\.window is 4 there and 8 here"):
        RunFolder(tmp_path, wider, resume=True)
