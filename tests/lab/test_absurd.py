"""Settings of the right type that nobody can mean: one line, exit code 2, nothing written."""

import json
import sys

import pytest
import torch

from synthgrad.lab import cli
from synthgrad.lab.errors import UsageError
from synthgrad.lab.experiments.image_recipes import RECIPES
from synthgrad.lab.experiments.images import ImageTrainer
from synthgrad.lab.runs.memory import available, check_memory
from synthgrad.lab.runs.run import run

HUGE = str(10**12)
DIGITS = ("run", "digits-fcn", "--iterations", "2", "--units", "8", "--threads", "1")


@pytest.fixture
def refused(capsys, tmp_path, monkeypatch):
    """Calls the command line in an empty folder; returns the one line that it says."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> str:
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)
        said = capsys.readouterr()
        assert (ended.value.code, said.out) == (2, ""), said
        assert said.err.startswith("synthgrad: ")
        assert len(said.err.splitlines()) == 1
        assert sorted(tmp_path.rglob("*")) == before
        return said.err

    return call


@pytest.mark.parametrize(
    "arguments",
    [
        (*DIGITS, "--seed", str(2**63)),
        (*DIGITS, "--seed", "-1"),
        (*DIGITS, "--eval-every", str(2**63)),
        (*DIGITS, "--seed", "1" + "0" * 40),
        (*DIGITS, "--layers", "10001"),
        (*DIGITS, "--threads", "1025"),
        (*DIGITS, "--lambda", "nan"),
        (*DIGITS, "--learning-rate", "inf"),
        (*DIGITS, "--learning-rate", "1e300"),
        (*DIGITS, "--device", "meta"),
        (*DIGITS, "--device", "cpu:1"),
        (*DIGITS, "--device", "cuda:" + "9" * 30),
        (*DIGITS, "--units", HUGE),
        (*DIGITS, "--layers", "9999", "--units", "99999"),
        (*DIGITS, "--feedback-hidden", HUGE),
        ("run", "copy", "--unroll", HUGE),
        ("run", "copy", "--batch-size", HUGE),
        ("run", "multi-network", "--units", HUGE),
        ("bench", "recurrent", "--units", HUGE),
        ("bench", "step", "--threads", "99999"),
        ("reproduce", "fig5", "--jobs", HUGE),
        ("reproduce", "fig5", "--seeds", HUGE),
        ("reproduce", "fig5", "--budget", "nan"),
        ("store", "--port", "70000"),
        ("launch", "digits-fcn", "--restarts", "-1"),
    ],
    ids=lambda arguments: " ".join(arguments[-2:])[:30],
)
def test_a_setting_is_refused_by_name(refused, arguments):
    option = next(a for a in reversed(arguments) if a.startswith("--"))
    assert option in refused(*arguments)


def test_a_long_number_is_not_written_out(refused):
    assert len(refused(*DIGITS, "--seed", "9" * 4000)) < 300


@pytest.mark.parametrize(
    "command",
    [
        (*DIGITS, "--out"),
        ("launch", "digits-fcn", "--out"),
        ("demo", "--out"),
        ("report",),
        ("report", "here", "--out"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("path", ["x" * 300, "loop", "loop/x", "", "nul\0x", "\ud800"], ids=ascii)
def test_what_cannot_be_a_path_is_refused(refused, tmp_path, command, path):
    (tmp_path / "loop").symlink_to("loop")
    said = refused(*command, path)
    assert "cannot be used" in said or "an argument" in said


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "summary.json", "checkpoint"])
@pytest.mark.parametrize("resume", [(), ("--resume",)])
def test_another_kind_of_file_under_a_runs_name_is_refused(refused, tmp_path, name, resume):
    if name == "checkpoint":
        (tmp_path / name).write_text("")
    else:
        (tmp_path / name).mkdir()
    assert f"{name} is not a f" in refused(*DIGITS, "--out", ".", *resume)


def test_a_deeply_nested_configuration_is_refused(refused, tmp_path):
    (tmp_path / "config.json").write_text("[" * 100_000)
    assert "nested too deeply" in refused(*DIGITS, "--out", ".", "--resume")


def test_the_largest_seed_trains(tmp_path):
    config = RECIPES["digits-fcn"].defaults.changed(seed=2**63 - 1, iterations=2, units=8)
    run(RECIPES["digits-fcn"], config, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["seed"] == 2**63 - 1


def test_memory_is_refused_before_anything_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr("synthgrad.lab.runs.memory.available", lambda _: 1 << 28)
    monkeypatch.setattr(ImageTrainer, "__init__", lambda *_: pytest.fail("it was built"))
    config = RECIPES["digits-fcn"].defaults
    says = r"--units 64, --layers 4: that needs about [\d.]+ .iB of memory, .* has 256\.0 MiB free"
    with pytest.raises(UsageError, match=says):
        run(RECIPES["digits-fcn"], config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_machine_that_does_not_say_its_memory_is_trusted(monkeypatch):
    monkeypatch.setattr("synthgrad.lab.runs.memory.available", lambda _: None)
    check_memory(1 << 80, RECIPES["digits-fcn"].defaults, torch.device("cpu"))


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_free_memory_is_known():
    there = available(torch.device("cpu"))
    assert there is not None
    assert there > 1 << 24
