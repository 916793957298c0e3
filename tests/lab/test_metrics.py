"""The metrics of a run: never behind its checkpoint, and made whole again after a crash."""

import errno
import json
import os

import pytest

from synthgrad.errors import SynthgradWarning
from synthgrad.lab import cli
from synthgrad.lab.errors import RunError
from synthgrad.lab.experiments.image_recipes import RECIPES
from synthgrad.lab.experiments.images import ImageTrainer
from synthgrad.lab.runs import folder
from synthgrad.lab.runs.folder import RunFolder
from synthgrad.lab.runs.run import run

DIGITS = RECIPES["digits-fcn"]
CONFIG = DIGITS.defaults.changed(units=8, iterations=20, eval_every=2, checkpoint_every=100)


def _begun(path, lines=3):
    """A run of some lines with a checkpoint, and two lines later than that."""
    kept = RunFolder(path, {"recipe": "r"}, resume=False)
    kept.open()
    for step in range(1, lines + 1):
        kept.log(step, {"test_error": 50.0 + step})
    kept.save(lines, {"step": lines})
    whole = kept.metrics.read_bytes()
    kept.log(lines + 1, {"test_error": 1.0})
    kept.log(lines + 2, {"test_error": 2.0})
    kept.close()
    return kept, whole


@pytest.mark.parametrize(
    "damage",
    [
        lambda text, whole: text,
        lambda text, whole: text[:-5],
        lambda text, whole: whole,
        lambda text, whole: whole[:-5],
        lambda text, whole: whole[:3],
        lambda text, whole: b"",
        lambda text, whole: None,
        lambda text, whole: whole[:-9] + b"\0" * 20,  # as file systems leave it
        lambda text, whole: whole[:-9] + b"\0" * 9,
    ],
)
def test_metrics_are_put_back_to_the_checkpoints_moment(tmp_path, damage):
    kept, whole = _begun(tmp_path)
    damaged = damage(kept.metrics.read_bytes(), whole)
    if damaged is None:
        kept.metrics.unlink()
    else:
        kept.metrics.write_bytes(damaged)
    assert kept.load() == {"step": 3}
    assert kept.metrics.read_bytes() == whole


def test_more_lost_than_a_checkpoint_remembers_is_said_and_leaves_whole_lines(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(folder, "REMEMBERED", 100)
    kept, whole = _begun(tmp_path, lines=20)
    kept.metrics.write_bytes(whole[:50])
    with pytest.warns(SynthgradWarning, match=rf"\d+ of its {len(whole)} bytes are lost"):
        kept.load()
    left = kept.metrics.read_text().splitlines()
    steps = [json.loads(line)["step"] for line in left]
    assert steps[0] == 1
    assert steps[-1] == 20
    assert steps == sorted(steps)


def test_without_a_checkpoint_the_metrics_begin_anew(tmp_path):
    kept, _ = _begun(tmp_path)
    for path in kept.checkpoints.iterdir():
        path.unlink()
    assert kept.load() is None
    assert kept.metrics.read_bytes() == b""


def test_metrics_reach_the_disk_before_the_checkpoint_that_counts_on_them(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync

    def noted(file):
        synced.append(os.readlink(f"/proc/self/fd/{file}").rsplit("/", 1)[-1].split(".")[0])
        fsync(file)

    monkeypatch.setattr(os, "fsync", noted)
    kept, _ = _begun(tmp_path)
    assert synced[-3:] == ["metrics", "", "checkpoint"]  # the file of a name that begins with "."
    kept.close()


@pytest.mark.parametrize("what", ["log", "save", "finish"])
def test_a_full_disk_ends_with_1_and_resume_goes_on(tmp_path, monkeypatch, capsys, what):
    command = ["run", "digits-fcn", "--units", "8", "--iterations", "4", "--eval-every", "2"]
    command += ["--checkpoint-every", "2", "--out", str(tmp_path)]

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a/b")

    with monkeypatch.context() as disk:
        disk.setattr(RunFolder, what, full)
        with pytest.raises(SystemExit) as ended:
            cli.main(command)
    said = [s for s in capsys.readouterr().err.splitlines() if s.startswith("synthgrad:")]
    assert ended.value.code == 1
    assert said == [
        "synthgrad: a/b: No space left on device; --resume goes on from the last checkpoint"
    ]
    held = (tmp_path / "config.json").exists()
    assert held or what == "log"  # nothing had come of it
    with pytest.raises(SystemExit) as ended:
        cli.main([*command, *(["--resume"] if held else [])])
    assert ended.value.code == 0
    steps = [json.loads(s)["step"] for s in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [2, 4]


def test_a_run_killed_in_the_middle_of_a_line_ends_as_an_unbroken_one(tmp_path, monkeypatch):
    monkeypatch.setattr("synthgrad.lab.runs.run.Pace.due", lambda _: True)
    config = CONFIG.changed(checkpoint_every=6)
    run(DIGITS, config, tmp_path / "whole")
    advance = ImageTrainer.advance

    def killed(trainer):
        if trainer.step == 11:
            raise RunError("killed")
        advance(trainer)

    with monkeypatch.context() as broken:
        broken.setattr(ImageTrainer, "advance", killed)
        with pytest.raises(RunError, match="killed"):
            run(DIGITS, config, tmp_path / "broken")
    torn = tmp_path / "broken" / "metrics.jsonl"
    lines = torn.read_bytes().splitlines(keepends=True)
    torn.write_bytes(b"".join(lines[:2]) + lines[2][:7])
    run(DIGITS, config, tmp_path / "broken", resume=True)
    assert torn.read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
