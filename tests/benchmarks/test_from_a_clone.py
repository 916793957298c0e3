import os
import subprocess
import sys
from pathlib import Path

import pytest

import synthgrad
from benchmarks import CLONE, resident
from synthgrad.lab import cli

PACKAGE = Path(synthgrad.__file__).parent


def _command(source, cwd, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "synthgrad.lab.cli", *arguments],
        env={**os.environ, "PYTHONPATH": str(source)},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_clone_finds_its_benchmarks_from_anywhere(tmp_path):
    (tmp_path / "benchmarks").mkdir()  # somebody else's
    (tmp_path / "benchmarks" / "__init__.py").write_text("raise SystemExit('not ours')")
    ended = _command(PACKAGE.parent, tmp_path, "bench", "memory", "--layers")
    assert ended.returncode == 2
    assert "--layers: expected one depth at least" in ended.stderr


@pytest.mark.parametrize("options", [(), ("step",), ("--help",), ("step", "--help")])
def test_elsewhere_the_command_says_where_they_are(tmp_path, options):
    installed = tmp_path / "site-packages"
    installed.mkdir()
    for part in (PACKAGE, PACKAGE.parent / "synthgrad_cli.py"):
        (installed / part.name).symlink_to(part)
    ended = _command(installed, tmp_path, "bench", *options)
    assert ended.returncode == 1
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert "benchmarks/ of a clone" in line


def test_elsewhere_the_other_commands_are_as_ever(monkeypatch, capsys):
    monkeypatch.setattr(cli, "BENCHES", {})
    with pytest.raises(SystemExit) as ended:
        cli.main(["list"])
    assert ended.value.code == 0
    with pytest.raises(SystemExit) as ended:
        cli.main(["bench", "step"])
    assert ended.value.code == 1
    assert "clone" in capsys.readouterr().err


def test_its_processes_find_it_wherever_they_begin(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(CLONE / "src"))
    assert resident.peak("backprop", 2, 4, 4, 1) > 10
