"""A small grid on the embedded data, in place of the paper's."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from synthgrad.lab import cli, tables
from synthgrad.lab.data import DataError
from synthgrad.lab.errors import RunError, UsageError
from synthgrad.lab.experiments.images import PAPER
from synthgrad.lab.reproduce import reproduce
from synthgrad.lab.runs import folder
from synthgrad.lab.runs.signals import Stopped
from synthgrad.lab.tables import Cell, PaperTable

ITERATIONS = 8
BUDGET = ITERATIONS / PAPER["iterations"]


def _tiny(*methods: str, **settings) -> PaperTable:
    shared = {"units": 4, "layers": 3, "feedback_hidden": (4,), "eval_every": 4, **settings}
    cells = (Cell(f"3-{method}", "digits-fcn", {"method": method, **shared}) for method in methods)
    return PaperTable("tiny", "a small grid", tuple(cells))


@pytest.fixture(autouse=True)
def _tables(monkeypatch):
    monkeypatch.setitem(tables.TABLES, "tiny", _tiny("backprop", "dni"))


def _reproduce(out: Path, **values) -> Path:
    return reproduce("tiny", out, budget=BUDGET, threads=1, **values)


def _times(folder: Path) -> dict[str, int]:
    """When each run was finished."""
    return {p.parent.name: p.stat().st_mtime_ns for p in folder.glob("*/summary.json")}


def test_a_grid_is_run_and_reported(tmp_path, capsys):
    page = _reproduce(tmp_path, seeds=2)
    names = ["3-backprop-seed0", "3-dni-seed0", "3-backprop-seed1", "3-dni-seed1"]
    assert sorted(_times(tmp_path / "tiny")) == sorted(names)
    for name in names:
        summary = json.loads((tmp_path / "tiny" / name / "summary.json").read_text())
        assert summary["iterations"] == ITERATIONS
        assert name.endswith(f"seed{summary['seed']}")
    assert page == tmp_path / "tiny" / "report.html"
    text = page.read_text(encoding="utf-8")
    assert "tiny: a small grid" in text
    said = capsys.readouterr()
    assert [line.split(":")[0] for line in said.out.splitlines()] == [*names, "Report"]
    assert str(page) in said.out
    assert "4 runs, 0 of them done already" in said.err


def test_what_is_done_is_not_done_again(tmp_path, capsys, monkeypatch):
    _reproduce(tmp_path)
    before = _times(tmp_path / "tiny")
    _reproduce(tmp_path, seeds=2)
    assert before.items() <= _times(tmp_path / "tiny").items()
    assert "4 runs, 2 of them done already" in capsys.readouterr().err
    monkeypatch.setattr(
        "synthgrad.lab.experiments.images.load", _fail
    )  # nothing to do, nothing to load
    _reproduce(tmp_path, seeds=2, jobs=3)


def test_only_some_cells(tmp_path, capsys):
    _reproduce(tmp_path, only="*-dni")
    assert set(_times(tmp_path / "tiny")) == {"3-dni-seed0"}
    _reproduce(tmp_path, only="3-back*")
    assert set(_times(tmp_path / "tiny")) == {"3-dni-seed0", "3-backprop-seed0"}
    text = (tmp_path / "tiny" / "report.html").read_text(encoding="utf-8")
    assert "dni" in text
    assert "backprop" in text  # the report is on all there is
    with pytest.raises(UsageError, match=r"--only: no cell .* 'x'; there are 3-backprop, 3-dni"):
        _reproduce(tmp_path, only="x")


def test_the_papers_schedule_reaches_the_runs(tmp_path):
    _reproduce(tmp_path, schedule="paper", only="3-dni")
    config = json.loads((tmp_path / "tiny" / "3-dni-seed0" / "config.json").read_text())
    assert config["schedule"] == "paper"
    assert config["learning_rate"] == config["feedback_learning_rate"] == PAPER["learning_rate"]


def _fail(*_, **__):
    raise AssertionError("called")


def test_half_done_runs_go_on_where_they_were(tmp_path, monkeypatch):
    from synthgrad.lab.experiments.images import ImageTrainer

    monkeypatch.setitem(tables.TABLES, "tiny", _tiny("backprop", "dni", checkpoint_every=2))
    whole = _reproduce(tmp_path / "whole").parent
    advance, steps = ImageTrainer.advance, []

    def interrupted(self):
        if (self.config.method, self.step) == ("dni", 5):
            raise KeyboardInterrupt
        advance(self)

    def watched(self):
        steps.append((self.config.method, self.step))
        advance(self)

    monkeypatch.setattr(ImageTrainer, "advance", interrupted)
    with pytest.raises(Stopped, match="stopped in 3-dni-seed0; the same command goes on"):
        _reproduce(tmp_path / "broken")
    monkeypatch.setattr(ImageTrainer, "advance", watched)
    broken = _reproduce(tmp_path / "broken").parent
    assert steps == [("dni", step) for step in (4, 5, 6, 7)]
    for name in ("3-backprop-seed0", "3-dni-seed0"):
        metrics = (folder / name / "metrics.jsonl" for folder in (whole, broken))
        assert len({path.read_text() for path in metrics}) == 1


@pytest.mark.parametrize("jobs", [1, 2])
def test_one_that_fails_does_not_lose_the_others(tmp_path, monkeypatch, capsys, jobs):
    cells = [*_tiny("backprop").cells, *_tiny("dni", batch_size=5000).cells, *_tiny("none").cells]
    monkeypatch.setitem(tables.TABLES, "tiny", PaperTable("tiny", "", tuple(cells)))
    with pytest.raises(RunError, match=r"1 of 3 runs failed:\n  3-dni-seed0: .*--batch-size: 5000"):
        _reproduce(tmp_path, jobs=jobs)
    assert set(_times(tmp_path / "tiny")) == {"3-backprop-seed0", "3-none-seed0"}
    assert (tmp_path / "tiny" / "report.html").exists()
    assert "3-dni-seed0: failed" in capsys.readouterr().err


def test_a_broken_folder_is_one_that_fails(tmp_path):
    _reproduce(tmp_path)
    (tmp_path / "tiny" / "3-dni-seed0" / "summary.json").write_text("{")
    with pytest.raises(RunError, match=r"1 of 2 runs failed:\n  3-dni-seed0: .*summary.json"):
        _reproduce(tmp_path)


def test_other_settings_need_another_folder(tmp_path):
    _reproduce(tmp_path)
    before = _times(tmp_path / "tiny")
    with pytest.raises(
        UsageError, match=r"--out: .*iterations is 8 there and 16 here; give another"
    ):
        reproduce("tiny", tmp_path, budget=2 * BUDGET, threads=1)
    assert _times(tmp_path / "tiny") == before


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"jobs": 0}, "--jobs: expected at least 1, got 0"),
        ({"seeds": 0}, "--seeds: expected at least 1, got 0"),
        ({"threads": -1}, "--threads: expected at least 0, got -1"),
        ({"budget": 0.0}, "--budget: expected a share above 0, such as 0.01, got 0.0"),
        ({"budget": float("nan")}, "--budget: .*got nan"),
        ({"device": "abacus"}, "--device: 'abacus'"),
    ],
)
def test_a_bad_argument_is_named_before_anything_is_written(tmp_path, values, says):
    with pytest.raises(UsageError, match=says):
        reproduce("tiny", tmp_path, **values)
    assert not list(tmp_path.iterdir())


def test_missing_data_is_said_once(tmp_path, monkeypatch):
    asked = []

    def missing(name, root, device):
        asked.append((name, root))
        raise DataError(f"{name} is missing")

    monkeypatch.setattr("synthgrad.lab.experiments.images.load", missing)
    with pytest.raises(DataError, match="mnist is missing"):
        reproduce("deep21", tmp_path / "runs", data_root=tmp_path)
    assert asked == [("mnist", tmp_path)]
    assert not (tmp_path / "runs").exists()


@pytest.fixture
def main():
    """The command's exit code."""

    def run(*arguments: str) -> object:
        with pytest.raises(SystemExit) as ended:
            cli.main(["reproduce", *arguments])
        return ended.value.code

    return run


def test_an_unknown_table_ends_with_2_and_the_known_are_named(main, capsys):
    assert main("tabel2") == 2
    said = capsys.readouterr().err
    assert all(name in said for name in ("tabel2", *tables.TABLES))


@pytest.mark.parametrize("figure", ["fig4", "fig13", "fig16", "table1", "table2", "fig7"])
def test_a_figure_without_a_table_of_its_own_names_those_that_draw_it(main, capsys, figure):
    drawn_by = tables.DRAWN_BY[figure]
    assert set(drawn_by) <= set(tables.TABLES)
    assert main(figure) == 2
    assert f"it is drawn by {', '.join(drawn_by)}" in capsys.readouterr().err


def test_a_folder_without_its_configuration_is_not_run_into(tmp_path):
    _reproduce(tmp_path)
    (tmp_path / "tiny" / "3-dni-seed0" / "config.json").unlink()
    before = _times(tmp_path / "tiny")
    with pytest.raises(UsageError, match=r"^--out: .*3-dni-seed0 holds part of a run .*folder$"):
        _reproduce(tmp_path)
    assert _times(tmp_path / "tiny") == before


def test_a_failed_run_ends_with_1_and_success_with_0(main, tmp_path, capsys, monkeypatch):
    options = ("--budget", str(BUDGET), "--threads", "1", "--out", str(tmp_path))
    monkeypatch.setitem(tables.TABLES, "tiny", _tiny("none", batch_size=5000))
    assert main("tiny", *options) == 1
    assert "1 of 1 runs failed" in capsys.readouterr().err
    monkeypatch.setitem(tables.TABLES, "tiny", _tiny("none"))
    assert main("tiny", *options) == 0
    assert str(tmp_path / "tiny" / "report.html") in capsys.readouterr().out


SCRIPT = """
from synthgrad.lab import cli, tables
from synthgrad.lab.tables import Cell, PaperTable

if __name__ == "__main__":
    settings = {"units": 4, "layers": 3, "checkpoint_every": 20, "eval_every": 500}
    cells = [Cell(f"3-{m}", "digits-fcn", {"method": m, **settings}) for m in ("none", "cdni")]
    tables.TABLES["tiny"] = PaperTable("tiny", "", tuple(cells))
    cli.main()
"""


@pytest.mark.parametrize(("jobs", "number"), [(1, signal.SIGTERM), (2, signal.SIGINT)])
def test_a_signal_stops_with_checkpoints_and_says_how_to_go_on(tmp_path, jobs, number):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), "reproduce", "tiny", "--out", str(tmp_path / "out")]
    command += ["--jobs", str(jobs), "--threads", "1", "--budget", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    folders = [tmp_path / "out" / "tiny" / name for name in ("3-none-seed0", "3-cdni-seed0")]
    until = time.monotonic() + 60
    try:
        while any(folder.load_newest(f / "checkpoint") is None for f in folders[:jobs]):
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.01)
    finally:
        os.killpg(process.pid, number)  # as Ctrl-C in a terminal does
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "; the same command goes on from there" in said
    assert all(f.name in said.splitlines()[-1] for f in folders[:jobs])
    assert "Traceback" not in said
    assert not _times(tmp_path / "out" / "tiny")
