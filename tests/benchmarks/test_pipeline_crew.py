"""A crew's processes end with it, and what went wrong in one is said."""

import os
import time
from dataclasses import replace

import pytest

from benchmarks.link import Loopback
from benchmarks.pipeline.crew import Crew, run_crew, slowest
from benchmarks.pipeline.job import Job
from benchmarks.pipeline.timeline import last_entry
from benchmarks.pipeline.work import Work
from synthgrad.lab.errors import RunError

WORK = Work(kind="sleep", batch=4, message=4, sleep=0.01)


@pytest.fixture
def job(tmp_path):
    return Job(role="alone", work=WORK, steps=5, stages=2, folder=str(tmp_path))


def _until_it_steps(job):
    end = time.monotonic() + 60
    while last_entry(job.times_path)[1] < 1:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_process_reports_its_steps_memory_and_time(job):
    (outcome,) = run_crew(Loopback(), [job], 60)
    assert [step for _, step in outcome.times] == [-1, *range(5)]
    assert 0.01 <= slowest([outcome], 1) < 1
    usage = outcome.result["usage"]
    assert [entry["step"] for entry in usage] == list(range(6))
    assert all(entry["bytes"] > 1e7 for entry in usage)


def test_processes_end_with_the_block(job):
    crew = Crew(Loopback())
    crew.start(replace(job, steps=100_000))
    _until_it_steps(job)
    pid = crew._running[0].pid
    os.kill(pid, 0)
    with pytest.raises(ZeroDivisionError), crew:
        raise ZeroDivisionError
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_one_that_was_killed_is_waited_for_until_it_is_started_again(job):
    with Crew(Loopback()) as crew:
        crew.start(replace(job, steps=100_000))
        _until_it_steps(job)
        crew.kill(0)
        with pytest.raises(RunError, match="alone in 2 stages was not done after 0 s"):
            crew.wait(0.1)
        crew.start(job)
        (outcome,) = crew.wait(60)
    steps = [step for _, step in outcome.times]
    assert steps[0] == -1
    assert steps[-6:] == [-1, 0, 1, 2, 3, 4]


def test_a_failure_is_told_with_its_last_words(job):
    broken = replace(job, work=replace(WORK, kind="mnist", recipe="no-such-recipe"))
    with pytest.raises(RunError, match=r"stage 0 of alone in 2 stages: exit status 1.*no-such"):
        run_crew(Loopback(), [broken], 60)
