"""Where a report is written, and that it spoils no run."""

import os

import pytest

from benchmarks.pipeline.main import main as bench_pipeline
from synthgrad.lab import cli
from synthgrad.lab.errors import UsageError
from synthgrad.lab.report import write_report

OWN = [
    *("config.json", "metrics.jsonl", "summary.json", ".lock", "events.out.tfevents.1.x"),
    *("checkpoint", "checkpoint/step-000000001-0123456789abcdef.pt", "checkpoint/page.html"),
    *("stage-0/page.html", "link", "hard", "foreign", "elsewhere/config.json", "through/page.html"),
]


def _bytes(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def folder(make_run):
    folder = make_run()
    (folder / "checkpoint").mkdir()
    (folder / "stage-0").mkdir()
    (folder / "elsewhere").mkdir()
    (folder / "checkpoint" / "step-000000001-0123456789abcdef.pt").write_bytes(b"x")
    (folder / "events.out.tfevents.1.x").write_bytes(b"x")
    (folder / "link").symlink_to("config.json")
    (folder / "through").symlink_to("checkpoint")
    (folder / "foreign").symlink_to(make_run(seed=1) / "config.json")
    os.link(folder / "metrics.jsonl", folder / "hard")
    return folder


@pytest.mark.parametrize("name", OWN)
def test_a_report_in_place_of_a_runs_own_file_is_refused(folder, name, capsys):
    before = _bytes(folder)
    with pytest.raises(SystemExit) as ended:
        cli.main(["report", str(folder), "--out", str(folder / name)])
    assert ended.value.code == 2
    assert "a run's own file" in capsys.readouterr().err
    assert _bytes(folder) == before


def test_the_findings_of_a_benchmark_are_refused_there_too(folder):
    with pytest.raises(UsageError, match="a run's own file"):
        bench_pipeline(quick=True, parts=(), out=folder / "config.json")


@pytest.mark.parametrize("name", ["page.html", "", "elsewhere/page.html", "checkpoints.html"])
def test_beside_them_it_is_written(folder, name):
    before = _bytes(folder)
    page = write_report([folder], folder / name)
    assert before.items() <= _bytes(folder).items()
    assert b"mnist-fcn" in page.read_bytes()


def test_a_folder_whose_name_is_no_text_is_shown(folder):
    strange = folder.rename(folder.with_name(os.fsdecode(b"\xff")))
    page = write_report([strange], strange / "page.html")
    assert r"\udcff" in page.read_text(encoding="utf-8")
