"""What a damaged run folder says, and that nothing in it is used or lost."""

import json
import shutil

import pytest

from synthgrad.lab import cli
from synthgrad.lab.errors import RunError, UsageError
from synthgrad.lab.experiments.image_recipes import RECIPES
from synthgrad.lab.experiments.images import ImageTrainer
from synthgrad.lab.runs.folder import RunFolder
from synthgrad.lab.runs.run import run

DIGITS = RECIPES["digits-fcn"]
CONFIG = DIGITS.defaults.changed(units=8, iterations=10, eval_every=5, checkpoint_every=5)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run; not to be changed."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    run(DIGITS, CONFIG, folder)
    return folder


def _files(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("part", ["summary.json", "metrics.jsonl", "checkpoint", "events"])
def test_part_of_a_run_without_its_configuration_is_left_alone(tmp_path, whole, part, resume):
    for path in whole.glob(f"{part}*"):
        copy = shutil.copytree if path.is_dir() else shutil.copy
        copy(path, tmp_path / path.name)
    before = _files(tmp_path)
    says = rf"^--out: .* holds part of a run \({part}.*\) but no config\.json, .*another folder$"
    with pytest.raises(UsageError, match=says):
        run(DIGITS, CONFIG.changed(seed=5), tmp_path, resume=resume)
    assert _files(tmp_path) == before


def test_the_checkpoint_of_a_stage_is_part_of_a_run(tmp_path):
    (tmp_path / "stage-1").mkdir()
    (tmp_path / "stage-1" / "step-000000001-0123456789abcdef.pt").write_bytes(b"")
    with pytest.raises(UsageError, match=r"part of a run \(stage-\*\)"):
        RunFolder(tmp_path, {"recipe": "r"}, resume=True)


def test_the_command_ends_with_2_and_one_line(tmp_path, whole, capsys):
    shutil.copy(whole / "summary.json", tmp_path)
    with pytest.raises(SystemExit) as ended:
        cli.main(["run", "digits-fcn", "--iterations", "999", "--out", str(tmp_path)])
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (2, "")
    assert len(said.err.splitlines()) == 1


def test_a_folder_with_other_files_is_no_run(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    run(DIGITS, CONFIG, tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_damaged_checkpoints_say_what_to_do(tmp_path, whole):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    (tmp_path / "summary.json").unlink()
    for path in (tmp_path / "checkpoint").iterdir():
        path.write_bytes(b"x")
    says = r"all checkpoints in .* are damaged \(step-.*\); to begin anew delete the run folder, or"
    with pytest.warns(match="passing over"), pytest.raises(RunError, match=says):
        run(DIGITS, CONFIG, tmp_path, resume=True)
    assert (tmp_path / "config.json").exists()


@pytest.mark.parametrize("text", ["{}", "[]", "3", '{"seed": 0}'])
@pytest.mark.parametrize(("name", "lacks"), [("config", "recipe"), ("summary", "metrics")])
def test_json_that_is_not_what_it_should_be_is_broken(tmp_path, whole, text, name, lacks):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    (tmp_path / f"{name}.json").write_text(text)
    with pytest.raises(RunError, match=rf"{name}\.json is broken: it has no {lacks}.*begin anew"):
        run(DIGITS, CONFIG, tmp_path, resume=True)


@pytest.mark.parametrize("was_there", [False, True])
def test_a_run_that_fails_before_anything_is_kept_leaves_the_folder_free(
    tmp_path, monkeypatch, was_there
):
    out = tmp_path / "run"
    if was_there:
        out.mkdir()
        (out / "notes.txt").write_text("mine")
    with monkeypatch.context() as broken:
        broken.setattr(ImageTrainer, "advance", _fail)
        with pytest.raises(ZeroDivisionError):
            run(DIGITS, CONFIG, out)
    assert out.exists() is was_there
    assert not (out / "config.json").exists()
    run(DIGITS, CONFIG, out)
    assert json.loads((out / "config.json").read_text())["recipe"] == "digits-fcn"


def test_a_run_that_fails_later_on_keeps_what_it_has(tmp_path, monkeypatch):
    advance = ImageTrainer.advance
    monkeypatch.setattr(ImageTrainer, "advance", lambda t: advance(t) if t.step < 7 else _fail())
    with pytest.raises(ZeroDivisionError):
        run(DIGITS, CONFIG, tmp_path / "run")
    assert {"config.json", "metrics.jsonl"} <= {p.name for p in (tmp_path / "run").iterdir()}


def _fail(*_):
    raise ZeroDivisionError


@pytest.mark.parametrize("there", [False, True])
def test_to_resume_there_has_to_be_a_run(tmp_path, capsys, there):
    if there:
        (tmp_path / "run").mkdir()
    command = ["run", "digits-fcn", "--iterations", "2", "--out", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as ended:
        cli.main([*command, "--resume"])
    assert ended.value.code == 2
    assert f"--resume: {tmp_path}/run holds no run" in capsys.readouterr().err
    assert [p.name for p in tmp_path.rglob("*")] == ["run"] * there


@pytest.mark.parametrize("inside", ["checkpoint", "checkpoint/deeper", "stage-0"])
def test_a_run_among_the_checkpoints_of_another_is_refused(tmp_path, whole, inside):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    with pytest.raises(UsageError, match=f"lies among the checkpoints of {tmp_path}"):
        run(DIGITS, CONFIG, tmp_path / inside)


def test_a_path_that_cannot_be_one_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"--out: .* cannot be used"):
        RunFolder(tmp_path / ("x" * 300), {"recipe": "r"}, resume=False)
