"""Stages are killed, hang and come back; the others go on."""

import signal
import time

import pytest

from tests.distributed.links import until
from tests.distributed.processes import pipeline

pytestmark = pytest.mark.timeout(90)


def test_a_stage_goes_on_without_its_successor_which_comes_back(tmp_path):
    with pipeline(tmp_path, 2, 400) as stages:
        stages.until(1, lambda s: s["updates"] > 30)
        stages.send(1, signal.SIGKILL)
        before = stages.until(0, lambda s: s["dropped"] > 0)
        # It never stopped.
        after = stages.until(0, lambda s: s["updates"] > before["updates"] + 20, seconds=20)
        assert after["dropped"] > before["dropped"]
        stages.again(1)
        # Before its patience of 30 seconds ends.
        stages.until(0, lambda s: s["generation_above"] == 2, seconds=25)
        first, second = stages.join()
    assert first["updates"] == 400
    assert first["sent"] + first["dropped"] >= 400
    assert second["result"]["metric"] < 25
    assert "going on at step" in stages.log(1)
    assert "stage 1 is gone" in stages.log(0)


def test_a_stage_goes_only_so_far_without_its_successor_if_told_so(tmp_path):
    with pipeline(tmp_path, 2, 200, alone=30) as stages:
        stages.until(1, lambda s: s["updates"] > 20)
        stages.send(1, signal.SIGKILL)
        stages.until(0, lambda s: s["dropped"] == 30)
        time.sleep(0.7)
        assert stages.status(0)["dropped"] == 30
        stages.again(1)
        first, second = stages.join()
    assert first["dropped"] == 30
    assert first["sent"] == 170
    assert second["step"] == 200


def test_a_stage_waits_for_its_predecessor_and_loses_nothing(tmp_path):
    with pipeline(tmp_path, 2, 300) as stages:
        stages.until(1, lambda s: s["updates"] > 50)
        stages.send(0, signal.SIGKILL)
        time.sleep(1.3)
        waiting = stages.status(1)
        time.sleep(0.7)
        assert stages.status(1)["updates"] == waiting["updates"]
        stages.again(0)
        first, second = stages.join()
    assert "waiting for stage 0" in stages.log(1)
    assert first["updates"] == 300
    assert second["updates"] >= 300  # those that the restarted stage sent again, too
    assert second["step"] == 300
    assert second["result"]["metric"] < 25


def test_the_middle_of_three_is_killed_and_the_run_ends(tmp_path):
    with pipeline(tmp_path, 3, 300) as stages:
        for _ in range(2):
            updates = stages.status(1)["updates"]
            stages.until(1, lambda s, u=updates: s["updates"] > u + 20)
            stages.send(1, signal.SIGKILL)
            stages.again(1)
        *_, last = stages.join()
    assert last["step"] == 300
    assert last["result"]["metric"] < 30


def test_a_successor_that_hangs_is_gone_until_it_wakes_up(tmp_path):
    with pipeline(tmp_path, 2, 500, timeout=0.6) as stages:
        stages.until(1, lambda s: s["updates"] > 20)
        stages.send(1, signal.SIGSTOP)
        stages.until(0, lambda s: s["dropped"] > 50)
        stages.send(1, signal.SIGCONT)
        stages.until(0, lambda s: s["generation_above"] == 2)
        first, second = stages.join()
    assert first["updates"] == 500
    assert second["step"] == 500
    assert "stage 1 is gone" in stages.log(0)


def test_a_predecessor_that_hangs_is_waited_for(tmp_path):
    with pipeline(tmp_path, 2, 200, timeout=0.6) as stages:
        stages.until(1, lambda s: s["updates"] > 20)
        stages.send(0, signal.SIGSTOP)
        stages.until(1, lambda s: "stage 0 is gone" in stages.log(1))
        stages.send(0, signal.SIGCONT)
        first, second = stages.join()
    assert first["updates"] == 200
    assert second["step"] == 200


def test_the_store_may_be_restarted(tmp_path):
    with pipeline(tmp_path, 2, 400) as stages:
        before = stages.until(1, lambda s: s["updates"] > 20)
        stages.store.kill()
        stages.store.join(10)
        stages.until(1, lambda s: s["updates"] > before["updates"] + 40)  # none is needed meanwhile
        stages.send(1, signal.SIGKILL)
        stages.again(1)
        time.sleep(0.5)
        assert stages.status(0)["generation_above"] == 1
        stages.open_store()
        stages.until(0, lambda s: s["generation_above"] == 2)
        first, second = stages.join()
    assert first["updates"] == 400
    assert second["step"] == 400


def test_sigterm_stops_all_with_a_checkpoint_and_they_go_on_from_there(tmp_path):
    with pipeline(tmp_path, 3, 200) as stages:
        stages.until(2, lambda s: s["updates"] > 60)
        for index in range(3):
            stages.send(index, signal.SIGTERM)
        stopped = stages.join()
        assert {s["state"] for s in stopped} == {"stopped"}
        # What was on its way has been used: all stand at the same step, and every target came.
        assert len({s["step"] for s in stopped}) == 1
        assert 60 < stopped[0]["step"] < 200
        assert [s["targets"] for s in stopped[:2]] == [stopped[0]["step"]] * 2
        for index in range(3):
            stages.again(index)
        finished = stages.join()
    assert [s["state"] for s in finished] == ["finished"] * 3
    assert [s["updates"] for s in finished] == [200] * 3
    assert [s["targets"] for s in finished[:2]] == [200] * 2


def test_the_first_checkpoint_comes_soon_and_only_with_something_new(tmp_path):
    with pipeline(tmp_path, 2, 10**6, checkpoint_every=1e6) as stages:
        for index in range(2):
            until(lambda i=index: [*(tmp_path / f"stage-{i}").glob("step-*.pt")])
        stages.send(0, signal.SIGKILL)
        stages.send(1, signal.SIGKILL)
        (first,) = (tmp_path / "stage-1").glob("step-*.pt")
        stages.again(1)  # which has nothing to do without the other
        stages.until(1, lambda s: s["state"] == "training" and s["waited_for_input"] > 1.0)
        assert list((tmp_path / "stage-1").glob("step-*.pt")) == [first]


def test_a_damaged_checkpoint_costs_some_steps(tmp_path):
    with pipeline(tmp_path, 2, 300) as stages:
        until(lambda: len(list((tmp_path / "stage-1").glob("step-*.pt"))) >= 2)
        stages.send(1, signal.SIGKILL)  # there may be a third, if it was about to remove it
        checkpoints = sorted((tmp_path / "stage-1").glob("step-*.pt"))
        checkpoints[-1].write_bytes(checkpoints[-1].read_bytes()[:100])
        older = int(checkpoints[-2].name.split("-")[1])
        stages.again(1)
        _, second = stages.join()
    assert f"going on at step {older}" in stages.log(1)
    assert second["step"] == 300


def test_a_successor_that_is_slow_to_begin_anew_is_not_waited_for(tmp_path):
    with pipeline(tmp_path, 2, 600, first=5.0, timeout=10.0) as stages:
        stages.until(1, lambda s: s["updates"] > 30)
        stages.send(1, signal.SIGKILL)
        stages.until(0, lambda s: s["dropped"] > 0)
        stages.again(1)
        before = stages.until(0, lambda s: s["generation_above"] == 2)
        # Before the other has made a step: its window was full after 8.
        after = stages.until(0, lambda s: s["updates"] > before["updates"] + 30, seconds=4.5)
        assert after["waited_for_window"] < before["waited_for_window"] + 1.0
        statuses = stages.join()
    # Maybe without the last messages: it is for those that the first stage did not wait.
    assert [s["state"] for s in statuses] == ["finished"] * 2
