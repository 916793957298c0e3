"""Timelines, pauses, goals and tables, on numbers made up for them."""

import io
import json
import math

import pytest
from rich.console import Console

from benchmarks.pipeline import main as main_module
from benchmarks.pipeline.chaos import Fault, pauses
from benchmarks.pipeline.contestants import Times
from benchmarks.pipeline.crew import Outcome
from benchmarks.pipeline.findings import Findings, Goal, show
from benchmarks.pipeline.job import Job
from benchmarks.pipeline.learning import learned
from benchmarks.pipeline.sizes import FULL, QUICK
from benchmarks.pipeline.timeline import (
    UP,
    Timeline,
    last_entry,
    read_timeline,
    seconds_per_step,
)
from benchmarks.pipeline.work import Work
from synthgrad.lab import cli

WORK = Work(kind="sleep")


def _outcome(stage, times, **result):
    job = Job(role="ours", work=WORK, steps=0, folder="", stage=stage, stages=3)
    return Outcome(job, times, result)


def test_a_timeline_goes_on_after_a_crash(tmp_path):
    path = tmp_path / "times"
    assert read_timeline(path) == []
    assert last_entry(path) == (-math.inf, UP)
    with Timeline(path) as timeline:
        assert last_entry(path) == (-math.inf, UP)
        timeline.note(UP)
        timeline.note(0)
    with open(path, "ab") as file:
        file.write(b"torn")
    assert [step for _, step in read_timeline(path)] == [UP, 0]
    assert last_entry(path) == read_timeline(path)[-1]
    moments = [moment for moment, _ in read_timeline(path)]
    assert moments == sorted(moments)


def test_a_rate_leaves_the_warm_up_out():
    entries = [(0.0, UP), (5.0, 0), (6.0, 1), (6.5, 2), (7.0, 3)]
    assert seconds_per_step(entries, 1) == 0.5
    assert seconds_per_step(entries, 0) == pytest.approx(2 / 3)


def test_of_several_rounds_the_least_counts():
    times = Times()
    for seconds in (3.0, 2.0, 4.0):
        times.add("1F1B, 4", seconds)
    times.add("1F1B, 8", 2.5)
    assert times["1F1B, 4"] == times.best("1F1B") == 2.0


def test_pauses_are_those_that_faults_made():
    every = [i / 10 for i in range(200)]

    def steps(*gaps):
        kept = [t for t in every if not any(a < t < b for a, b in gaps)]
        return [(t, i) for i, t in enumerate(kept)]

    # Stage 1 dies at 5, is ready at 7.8 and steps again at 8; stage 2 hangs from 12 to 15.
    killed = sorted([*steps((5.0, 8.0), (12.5, 13.0)), (7.8, UP)])
    outcomes = [
        _outcome(0, steps((5.0, 5.4), (12.2, 13.6))),
        _outcome(1, killed),
        _outcome(2, steps((5.0, 8.7), (12.0, 15.0))),
    ]
    faults = [Fault("kill", 1, 5.01, 8.0), Fault("hang", 2, 12.01, 15.0)]
    found = pauses(outcomes, faults)
    assert found.below == pytest.approx(0.4)
    assert found.above == pytest.approx(8.7 - 5.0 - (8.0 - 5.01))
    assert found.hang == pytest.approx(1.4)
    assert found.back == pytest.approx(0.2)
    assert found.outage == pytest.approx(2.99)


def test_a_stage_that_never_comes_back_is_seen():
    outcomes = [_outcome(0, [(t / 10, t) for t in range(100)]), _outcome(1, [(0.1, 0)])]
    found = pauses(outcomes, [Fault("kill", 1, 5.0)])
    assert found.back == found.outage == math.inf
    assert not Goal("", found.outage, 2.0, at_least=False).met


def test_time_to_a_goal_is_read_off_the_evaluations():
    first = _outcome(0, [(1.0, UP), (2.0, 0), (3.0, 1)])
    last = _outcome(2, [], results=[[4.0, 10, 5.0], [6.0, 20, 1.9], [9.0, 30, 1.5]])
    run = learned([first, last], 2.0)
    assert (run.error, run.seconds, run.steps_to_goal, run.seconds_to_goal) == (1.5, 7.0, 20, 4.0)
    assert learned([first, last], 1.0).steps_to_goal is None


@pytest.mark.parametrize(
    ("value", "bound", "at_least", "met"),
    [(1.4, 1.4, True, True), (1.39, 1.4, True, False), (2.0, 2.0, False, True),
     (2.1, 2.0, False, False), (None, 0.0, True, False), (None, 0.0, False, False)],
)  # fmt: skip
def test_a_goal_is_met_on_its_side_of_the_bound(value, bound, at_least, met):
    assert Goal("", value, bound, at_least).met == met


FOUND = Findings(
    "rate",
    "two stages",
    ("", "ms a step"),
    [("decoupled", "12.34")],
    [Goal("rate / 1F1B's best", 1.5, 1.4), Goal("hang", None, 4.0, at_least=False)],
    ["A note [with brackets]."],
    {"seconds": {"decoupled": [0.01234]}},
)


def test_a_part_is_shown_with_its_goals():
    console = Console(width=80, record=True, file=io.StringIO())
    show(console, FOUND)
    said = console.export_text()
    lines = [line.split() for line in said.splitlines()]
    assert ["decoupled", "12.34"] in lines
    assert ["rate", "/", "1F1B's", "best", "1.50", "≥", "1.4", "yes"] in lines
    assert ["hang", "not", "measured", "≤", "4", "no"] in lines
    assert "A note [with brackets]." in said


def test_the_command_writes_all_numbers_and_skips_by_name(tmp_path, monkeypatch, capsys):
    asked = []

    def measure(runner, sizes):
        asked.append(sizes)
        return FOUND

    monkeypatch.setattr(main_module, "PARTS", {"rate": measure, "delay": measure})
    monkeypatch.setattr(main_module, "why_not", lambda: "no TUN here")
    out = tmp_path / "numbers.json"
    with pytest.raises(SystemExit) as ended:
        cli.main(("bench", "pipeline", "--quick", "--out", str(out)))
    assert ended.value.code == 0
    assert asked == [QUICK]
    assert "delay: skipped: no TUN here" in capsys.readouterr().out
    report = json.loads(out.read_text())
    assert report["quick"] is True
    assert report["parts"].keys() == {"rate"}
    assert [goal["met"] for goal in report["parts"]["rate"]["goals"]] == [True, False]
    assert report["parts"]["rate"]["numbers"] == FOUND.numbers


def test_an_unknown_part_is_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(("bench", "pipeline", "--parts", "rate", "speed"))
    assert ended.value.code == 2
    assert "--parts: expected some of rate, delay, stages, learning, faults, got speed" in (
        capsys.readouterr().err
    )


def test_the_sizes_ask_for_what_the_issue_does(tmp_path):
    assert FULL.counts == (2, 4, 8, 16)
    assert FULL.delays == (0.025, 0.1)
    assert FULL.kills == 20
    assert FULL.learning.iterations <= 10_000
    moved = QUICK.with_data(tmp_path)
    assert moved.learning.data_root == moved.faulty.data_root == str(tmp_path)
    assert QUICK.with_data(None) is QUICK
