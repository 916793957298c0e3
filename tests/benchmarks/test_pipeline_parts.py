"""Every part of ``synthgrad bench pipeline`` runs, at sizes whose numbers say nothing."""

from dataclasses import replace

import pytest

from benchmarks.link import why_not
from benchmarks.pipeline.contestants import Runner
from benchmarks.pipeline.delay import measure_delay
from benchmarks.pipeline.faults import measure_faults
from benchmarks.pipeline.growth import measure_stages
from benchmarks.pipeline.learning import measure_learning
from benchmarks.pipeline.rate import measure_rate
from benchmarks.pipeline.sizes import QUICK

REASON = why_not()
needs_links = pytest.mark.skipif(REASON is not None, reason=str(REASON))


def _seconds(found):
    return [seconds for rounds in found.numbers["seconds"].values() for seconds in rounds]


def test_rate(tmp_path):
    found = measure_rate(Runner(tmp_path), QUICK)
    names = [row[0] for row in found.rows]
    assert names == [
        "stage 0 alone",
        "stage 1 alone",
        "both at once, unconnected",
        "decoupled",
        "1F1B, 4 microbatches",
        "1F1B, 8 microbatches",
        "GPipe, 4 microbatches",
        "GPipe, 8 microbatches",
        "backprop in one process, 1 thread",
    ]
    assert all(0 < seconds < 60 for seconds in _seconds(found))
    assert [goal.bound for goal in found.goals] == [0.95, 1.4]
    assert all(goal.value is not None for goal in found.goals)


@needs_links
def test_delay(tmp_path):
    delay = QUICK.delays[0]
    found = measure_delay(Runner(tmp_path), QUICK)
    locked = found.numbers["seconds"][f"{1e3 * delay:g} ms: 1F1B, 4 microbatches"]
    # A locked step needs a message up and an error back, four times one after the other.
    assert min(locked) > 2 * delay
    assert found.numbers["windows"][str(delay)] >= 1
    assert found.numbers["tcp_round_trips"][str(delay)] >= 2 * delay
    measured = found.numbers["round_trips"][str(delay)]
    assert measured == 0 or measured >= 2 * delay  # so short a run may end before the first


def test_stages(tmp_path):
    found = measure_stages(Runner(tmp_path), QUICK)
    assert [row[0] for row in found.rows] == ["2"]
    assert found.numbers["2"]["seconds"] >= QUICK.sleeping.sleep
    assert all(late > early / 2 > 1e6 for early, late in found.numbers["2"]["bytes"])
    assert all(seconds > 0 for seconds in found.numbers["2"]["cpu_seconds"])


@needs_links
def test_learning(tmp_path):
    found = measure_learning(Runner(tmp_path), QUICK)
    errors = {name: run["error"] for name, run in found.numbers.items() if "error" in run}
    assert errors.keys() == {
        "backprop in one process",
        "decoupled, 2 stages, no delay",
        "decoupled, 2 stages, 20 ms round trip",
    }
    assert all(error < 30 for error in errors.values())  # by chance it is 90
    assert len(found.rows) == 5
    assert all(goal.met for goal in found.goals)


def test_faults(tmp_path):
    sizes = replace(QUICK, faulty=replace(QUICK.faulty, iterations=400))
    found = measure_faults(Runner(tmp_path), sizes)
    kinds = [(fault["kind"], fault["stage"]) for fault in found.numbers["faults"]]
    assert kinds[:2] == [("kill", 0), ("kill", 1)]
    assert found.numbers["undisturbed"] < 30
    assert [status["state"] for status in found.numbers["status"]] == ["finished"] * 2
    assert found.numbers["pauses"]["outage"] >= QUICK.absence
