import os
import signal
import sys
import time
from pathlib import Path

import pytest

from synthgrad.lab.errors import RunError
from synthgrad.lab.runs.jobs import Job, in_turn, side_by_side
from synthgrad.lab.runs.signals import Stopped


def _double(x: int) -> int:
    if x < 0:
        raise ValueError(f"{x} is below 0")
    return 2 * x


def _die(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(30)


def _says_whether_a_terminal() -> bool:
    return sys.stderr.isatty()


def _wait_for(there: Path, begun: Path) -> None:
    begun.touch()
    while not there.exists():
        time.sleep(0.01)


def _jobs(*values: int) -> list[Job]:
    return [Job(f"double {x}", _double, {"x": x}) for x in values]


def _outcomes(found) -> dict[str, object]:
    return {job.name: str(o) if isinstance(o, Exception) else o for job, o in found}


def test_in_turn_keeps_the_order_and_passes_a_failure_on():
    found = list(in_turn(_jobs(1, -1, 2)))
    assert [job.name for job, _ in found] == ["double 1", "double -1", "double 2"]
    assert _outcomes(found) == {"double 1": 2, "double -1": "-1 is below 0", "double 2": 4}


def test_side_by_side_does_all_and_one_that_dies_is_lost_alone():
    jobs = [*_jobs(1, -1), Job("dies", _die, {"number": signal.SIGKILL}), *_jobs(2, 3)]
    jobs.append(Job("terminal", _says_whether_a_terminal, {}))
    found = list(side_by_side(jobs, 2))
    assert len(found) == len(jobs)
    outcomes = {job.name: o for job, o in found}
    assert isinstance(outcomes.pop("dies"), RunError)
    assert {k: str(v) for k, v in outcomes.items()} == {
        **{"double 1": "2", "double -1": "-1 is below 0", "double 2": "4", "double 3": "6"},
        "terminal": "False",
    }


def test_a_signal_to_one_process_stops_all():
    jobs = [Job("dies", _die, {"number": signal.SIGTERM}), *_jobs(*range(20))]
    with pytest.raises(Stopped, match="stopped in dies"):
        list(side_by_side(jobs, 1))


def test_a_signal_here_stops_all_that_runs(tmp_path):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    never, begun = tmp_path / "never", tmp_path / "begun"
    found = side_by_side(
        [*_jobs(1), Job("waits", _wait_for, {"there": never, "begun": begun}), *_jobs(2)], 1
    )
    assert next(found)[1] == 2
    os.kill(os.getpid(), signal.SIGINT)  # noted, not raised here
    with pytest.raises(Stopped):
        list(found)
    assert not begun.exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
