"""Exit codes and messages, as a shell sees them; no traceback for a user's mistake."""

import json
import subprocess
import sys
from dataclasses import dataclass, replace

import pytest

from synthgrad.lab import cli
from synthgrad.lab.experiments.image_recipes import RECIPES


@dataclass
class Result:
    returncode: object
    stdout: str
    stderr: str


@pytest.fixture
def synthgrad(capsys):
    """Runs the command line in this process."""

    def run(*arguments: str) -> Result:
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)
        captured = capsys.readouterr()
        return Result(ended.value.code, captured.out, captured.err)

    return run


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", "mnist-fnc"), "mnist-fnc"),
        (("run", "mnist-fcn", "--bogus", "3"), "--bogus"),
        (("run", "mnist-fcn", "--lambda", "1.2"), "--lambda"),
        (("run", "mnist-fcn", "--method", "magic"), "magic"),
        (("run", "mnist-fcn", "--layers", "many"), "many"),
        (("run", "digits-fcn", "--out", "/dev/null/run"), "--out"),
        (("run", "digits-fcn", "--device", "abacus"), "--device"),
        (("report",), "at least one run folder"),
        (("bench", "nothing"), "nothing"),
        (("frobnicate",), "frobnicate"),
    ],
    ids=" ".join,
)
def test_a_bad_argument_ends_with_2_and_is_named(synthgrad, arguments, says):
    result = synthgrad(*arguments)
    assert result.returncode == 2, result.stderr
    assert says in result.stderr + result.stdout


def test_missing_data_ends_with_1_and_says_which_file_goes_where(synthgrad, tmp_path):
    result = synthgrad(
        "run", "mnist-fcn", "--data-root", str(tmp_path), "--out", str(tmp_path / "run")
    )
    assert result.returncode == 1
    assert str(tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte.gz") in result.stderr
    assert not (tmp_path / "run").exists()


def test_help_and_list_name_every_recipe(synthgrad):
    listed = synthgrad("list").stdout
    for recipe in RECIPES:
        assert recipe in listed
    helped = synthgrad("run", "mnist-fcn", "--help")
    assert helped.returncode == 0
    for option in ("--method", "--lambda", "--interfaces", "--resume", "--out", "--data-root"):
        assert option in helped.stdout


def test_run_then_report(synthgrad, tmp_path):
    run = tmp_path / "run"
    settings = ("--iterations", "20", "--eval-every", "10", "--threads", "1", "--units", "8")
    ran = synthgrad("run", "digits-fcn", *settings, "--out", str(run))
    assert ran.returncode == 0, ran.stderr
    assert "test error" in ran.stdout
    assert str(run) in ran.stdout
    page = tmp_path / "page.html"
    for named in (run, tmp_path):  # a run folder, and a folder of them
        reported = synthgrad("report", str(named), "--out", str(page))
        assert reported.returncode == 0, reported.stderr
    assert "cdni" in page.read_text(encoding="utf-8").lower()
    assert page.stat().st_size > 1000


def test_a_finished_run_given_again_is_said_to_be_finished_already(synthgrad, tmp_path):
    command = ("run", "digits-fcn", "--iterations", "2", "--units", "8", "--out", str(tmp_path))
    assert f"; written to {tmp_path}" in synthgrad(*command).stdout
    again = synthgrad(*command, "--resume")
    assert again.returncode == 0
    assert f"; it was finished already, in {tmp_path}" in again.stdout
    assert "written" not in again.stdout


def test_a_real_process_shows_no_traceback(tmp_path):
    command = [sys.executable, "-m", "synthgrad.lab.cli", "report", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert result.returncode == 1
    assert str(tmp_path) in result.stderr
    assert "Traceback" not in result.stderr


def test_the_demo_compares_four_methods_and_says_where_the_report_is(
    synthgrad, tmp_path, monkeypatch
):
    from synthgrad.lab.experiments import image_recipes as recipes

    short = recipes.RECIPES["digits-fcn"].defaults.changed(iterations=20, feedback_hidden=(8,))
    monkeypatch.setitem(
        recipes.RECIPES, "digits-fcn", replace(recipes.RECIPES["digits-fcn"], defaults=short)
    )
    result = synthgrad("demo", "--out", str(tmp_path / "demo"))
    assert result.returncode == 0, result.stderr
    for label in ("backprop", "no feedback", "DNI", "cDNI", "updates"):
        assert label in result.stdout
    assert str(tmp_path / "demo" / "report.html") in result.stdout
    assert (tmp_path / "demo" / "report.html").exists()


@pytest.mark.parametrize(("more", "expected"), [((), ()), (("4", "5"), (4, 5))])
def test_feedback_hidden_without_a_number_is_a_linear_model(synthgrad, tmp_path, more, expected):
    settings = ("--iterations", "2", "--units", "8", "--threads", "1", "--layers", "3")
    out = ("--out", str(tmp_path / "run"))
    result = synthgrad("run", "digits-fcn", "--feedback-hidden", *more, *settings, *out)
    assert result.returncode == 0, result.stderr
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert tuple(config["feedback_hidden"]) == expected


def test_list_names_every_table_with_its_cells(synthgrad):
    from synthgrad.lab.tables import TABLES

    lines = synthgrad("list").stdout.splitlines()
    for name, table in TABLES.items():
        (line,) = (line for line in lines if line.split()[:1] == [name])
        assert line.split()[-1] == str(len(table.cells))
