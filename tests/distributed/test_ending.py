"""The end of a run: whoever is killed then, all stages finish, and the result is there."""

import os
import signal
import time
from functools import partial

import pytest

from synthgrad.distributed._worker import Worker
from synthgrad.distributed.protocol import Kind
from synthgrad.distributed.transport._gloo import Edge
from tests.distributed.processes import pipeline, work

pytestmark = pytest.mark.timeout(150)


def _dying(who, moment, index, *arguments):
    """A stage; one of them is killed once, right before or after its last word."""
    *_, options = arguments
    marker = options.folder / "killed"
    send = Edge.send

    def deadly(self, frame, **settings):
        dies = frame.kind == Kind.DONE and index == who and not marker.exists()
        if dies and moment == "before":
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        sent = send(self, frame, **settings)
        if dies:
            time.sleep(0.3)  # it arrives
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return sent

    Edge.send = deadly
    work(index, *arguments)


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("who", [0, 1, 2])
def test_a_stage_is_killed_around_its_last_word(tmp_path, who, moment):
    target = partial(_dying, who, moment)
    settings = {"seconds": 0.0, "timeout": 2.0, "target": target, "patience": 60.0}
    settings |= {"checkpoint_every": 60.0}
    with pipeline(tmp_path, 3, 40, **settings) as stages:
        stages.processes[who].join(50)
        assert stages.processes[who].exitcode == -signal.SIGKILL
        stages.again(who)
        statuses = stages.join(50)  # the patience is longer: nobody waits for that
    assert [s["state"] for s in statuses] == ["finished"] * 3
    assert statuses[2]["result"]["step"] == 40
    assert statuses[2]["result"]["examples"] == 4 * 64


def test_the_last_stage_was_gone_when_the_run_came_to_its_end(tmp_path):
    with pipeline(tmp_path, 2, 60, target=_evaluates_slowly, patience=60.0) as stages:
        stages.until(1, lambda s: s["updates"] > 5)
        stages.send(1, signal.SIGKILL)
        stages.until(0, lambda s: s["step"] == 60)
        time.sleep(0.3)  # it wants to evaluate now
        stages.again(1)
        _, last = stages.join(50)
    assert last["result"]["step"] == 60
    assert last["result"]["examples"] == 4 * 64


def test_an_end_without_its_whole_evaluation_is_not_the_end(tmp_path):
    """The last stage is killed in the midst of the final evaluation."""
    with pipeline(tmp_path, 2, 30, target=_evaluates_badly, patience=60.0) as stages:
        stages.processes[1].join(50)
        stages.again(1)
        _, last = stages.join(50)
    assert last["result"]["examples"] == 4 * 64


def _evaluates_slowly(index, *arguments):
    """The last stage would have left before the first had sent the evaluation a second time."""
    evaluate = Worker.evaluate

    def slow(self, frame):
        time.sleep(0.2 if index == 0 else 0.0)
        return evaluate(self, frame)

    Worker.evaluate = slow
    work(index, *arguments)


def _evaluates_badly(index, *arguments):
    *_, options = arguments
    marker = options.folder / "killed"
    evaluate = Worker.evaluate

    def deadly(self, frame):
        if index == 1 and not frame.first and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return evaluate(self, frame)

    Worker.evaluate = deadly
    work(index, *arguments)
