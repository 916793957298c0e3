"""Ctrl-C at any time: one line and exit code 130; and output that nobody can take."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import synthgrad_cli
from synthgrad.lab import cli
from synthgrad.lab.experiments.image_recipes import RECIPES
from synthgrad.lab.experiments.images import ImageTrainer
from synthgrad.lab.runs.run import run
from synthgrad.lab.runs.signals import Stopped

SRC = str(Path(synthgrad_cli.__file__).parent)
PRESSED = "import os, time; os.kill(os.getpid(), 2); time.sleep(60)\n"
COMMAND = [sys.executable, "-m", "synthgrad_cli"]


def _ended(folder, *arguments, **more):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), SRC])}
    return subprocess.run(
        [*COMMAND, *arguments], env=environment, capture_output=True, text=True, timeout=50, **more
    )


@pytest.mark.parametrize("module", ["signal", "torch"])
def test_while_a_module_is_imported(tmp_path, module):
    (tmp_path / f"{module}.py").write_text(PRESSED)
    ended = _ended(tmp_path, "list")
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "synthgrad: stopped\n")


def test_what_is_ignored_stays_ignored(tmp_path):
    (tmp_path / "torch.py").write_text(PRESSED.replace("time.sleep(60)", "raise SystemExit(7)"))
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert _ended(tmp_path, "list").returncode == 7
    finally:
        signal.signal(signal.SIGINT, before)


def test_while_data_are_loaded_nothing_is_left(tmp_path):
    pressed = f"import synthgrad.lab.data as d\ndef load(*_, **__):\n    {PRESSED}\n"
    program = tmp_path / "program.py"
    program.write_text(
        f"{pressed}import synthgrad.lab.experiments.images as r; r.load = load\n"
        "import sys, synthgrad_cli; sys.argv[1:] = ['run', 'digits-fcn', '--out', 'run']\n"
        "synthgrad_cli.main()\n"
    )
    ended = subprocess.run(
        [sys.executable, program],
        env={**os.environ, "PYTHONPATH": SRC},
        capture_output=True,
        text=True,
        timeout=50,
        cwd=tmp_path,
    )
    assert (ended.returncode, ended.stderr) == (130, "synthgrad: stopped\n")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_while_it_trains_a_checkpoint_is_kept(tmp_path, monkeypatch, number):
    digits = RECIPES["digits-fcn"]
    config = digits.defaults.changed(units=8, iterations=9)
    advance = ImageTrainer.advance

    def pressed(trainer):
        advance(trainer)
        os.kill(os.getpid(), number)

    with monkeypatch.context() as pressing:
        pressing.setattr(ImageTrainer, "advance", pressed)
        with pytest.raises(Stopped, match=r"stopped at step 1; .* --resume goes on"):
            run(digits, config, tmp_path)
    assert list((tmp_path / "checkpoint").glob("step-000000001-*.pt"))
    assert run(digits, config, tmp_path, resume=True)["iterations"] == 9


@pytest.mark.parametrize(
    ("raised", "code", "says"),
    [
        (KeyboardInterrupt(), 130, "synthgrad: stopped\n"),
        (Stopped("stopped at step 3"), 130, "synthgrad: stopped at step 3\n"),
        (BrokenPipeError(), 1, ""),
        (OSError(28, "No space left on device", "a/b"), 1, "synthgrad: a/b: No space left on dev"),
        (OSError(40, "Too many links", "a/b"), 2, "synthgrad: a/b: Too many links"),
        (MemoryError(), 1, "synthgrad: out of memory"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_how_a_command_ends(monkeypatch, capsys, raised, code, says):
    def raises(*_):
        raise raised

    monkeypatch.setattr("synthgrad.lab.demo.run_demo", raises)
    with pytest.raises(SystemExit) as ended:
        cli.main(["demo"])
    said = capsys.readouterr().err
    assert ended.value.code == code
    assert said.startswith(says)
    assert len(said.splitlines()) == bool(says)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device that is always full")
def test_output_onto_a_full_disk_is_one_line(monkeypatch, capsys):
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit) as ended:
            cli.main(["list"])
    said = capsys.readouterr().err
    assert ended.value.code == 1
    assert said == f"synthgrad: {os.strerror(28)}\n"


def test_output_that_nobody_reads_is_no_error_to_speak_of(monkeypatch, capsys):
    ours, theirs = os.pipe()
    os.close(ours)
    with open(theirs, "w", encoding="utf-8") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        with pytest.raises(SystemExit) as ended:
            cli.main(["list"])
    assert (ended.value.code, capsys.readouterr().err) == (1, "")
