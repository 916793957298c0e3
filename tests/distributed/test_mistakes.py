"""What cannot go away is said once, and what stands in the way is named."""

import errno
import os
import pickle
import signal
import time
import traceback
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from synthgrad import checkpoint, feedback
from synthgrad.distributed import Options, PeerError, Stage, serve, train
from synthgrad.distributed._supervisor import LARGEST_REPORT
from synthgrad.distributed.launch import _as_report
from synthgrad.errors import ArgumentError, ShapeError, SynthgradError
from tests.distributed.links import until
from tests.distributed.processes import batches, pipeline
from tests.sockets import assert_on_loopback

pytestmark = pytest.mark.timeout(150)


def _too_large(path):
    with open(path, "a") as file:
        file.write("asked\n")
    assert_on_loopback(os.getppid(), at_least=3)  # the store's process and both stages
    return [(torch.cat([x, x]), torch.cat([y, y])) for x, y in [batches(0)]]


def test_an_error_that_would_come_again_ends_the_run_at_once(tmp_path):
    asked = tmp_path / "asked"
    with pytest.raises(ShapeError, match="128 examples, expected 1 to 64") as raised:
        train(
            [nn.Linear(8, 8), nn.Linear(8, 4)],
            [feedback.Linear(8)],
            batches=batches,
            loss_fn=F.cross_entropy,
            optimizer=partial(torch.optim.SGD, lr=0.1),
            steps=2,
            evaluation=partial(_too_large, str(asked)),
            options=Options(timeout=2.0),
        )
    assert raised.value.__notes__ == ["This came up in stage 0."]
    assert asked.read_text() == "asked\n"


class Awkward(Exception):
    """Cannot be made from what it says, and so not be sent to another process."""

    def __init__(self, path, line):
        super().__init__(f"{path}: bad data in line {line}")


class Told(Exception):
    """One that can."""


def _bad_batches(step):
    if step == 2:
        raise Told("train.csv: bad data")
    return batches(step)


def test_an_exception_of_the_users_ends_the_run_at_once_and_is_its_cause():
    with pytest.raises(SynthgradError) as raised:
        train(
            [nn.Linear(8, 8), nn.Linear(8, 4)],
            [feedback.Linear(8)],
            batches=_bad_batches,
            loss_fn=F.cross_entropy,
            optimizer=partial(torch.optim.SGD, lr=0.1),
            steps=10**6,
            options=Options(timeout=2.0),
        )
    assert str(raised.value) == "stage 0: Told: train.csv: bad data"
    assert isinstance(raised.value.__cause__, Told)
    assert "in _bad_batches" in raised.value.__notes__[0]
    printed = "".join(traceback.format_exception(raised.value))
    assert printed.splitlines()[-1].endswith("Told: train.csv: bad data")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (Awkward("train.csv", 7), "stage 1: Awkward: train.csv: bad data in line 7"),
        (Told("long " * 10**5), "stage 1: Told: long long"),
        (SystemExit(3), "stage 1: SystemExit: 3"),
        (ShapeError("(4, 3) came"), "(4, 3) came"),
    ],
    ids=["cannot be sent", "long", "an exit", "one of ours"],
)
def test_whatever_a_stage_raises_is_told(error, says):
    report = _as_report(error, 1)
    assert len(report) <= LARGEST_REPORT
    said, cause = pickle.loads(report)
    assert str(said).startswith(says)
    assert isinstance(said, SynthgradError)
    assert cause is None or type(cause) is type(error)


def _stage(**settings):
    given = {"index": 1, "stages": 2, "store": "127.0.0.1:1", "loss_fn": F.cross_entropy}
    return Stage(nn.Linear(8, 4), optimizer=torch.optim.Adam, **(given | settings))


def test_an_interface_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(ArgumentError, match=r"no 'eth99' on this machine, only .*\blo\b"):
        _stage(options=Options(interface="eth99"))
    _stage(options=Options(interface="lo"))


def test_who_waited_in_vain_says_whether_there_is_a_store():
    options = Options(timeout=0.3, patience=0.5)
    with pytest.raises(PeerError, match=r"nothing came .*; nor does a store answer at 127.0.0.1:1"):
        _stage(options=options).run(5)
    store = serve()
    with pytest.raises(PeerError) as raised:
        _stage(options=options, store=f"127.0.0.1:{store.port}").run(5)
    assert "store" not in str(raised.value)


def test_a_disk_that_is_full_ends_a_stage_with_its_folder_and_the_cause(tmp_path, monkeypatch):
    def full(path, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "write", full)
    stage = _stage(index=0, stages=1, batches=batches, options=Options(folder=tmp_path))
    with pytest.raises(SynthgradError) as raised:
        stage.run(5)
    assert not isinstance(raised.value, PeerError)  # which would be tried again
    assert f"{tmp_path}/stage-0" in str(raised.value)
    assert os.strerror(errno.ENOSPC) in str(raised.value)


@pytest.mark.parametrize(("who", "hangs"), [(0, 1), (1, 0)])
def test_a_stage_asked_to_stop_saves_before_it_waits_for_one_that_hangs(tmp_path, who, hangs):
    # The grace between SIGTERM and SIGKILL is often shorter than the timeout.
    with pipeline(tmp_path, 2, 10**6, timeout=60.0, checkpoint_every=1e6) as stages:
        stages.until(1, lambda s: s["updates"] > 20)
        folder = tmp_path / f"stage-{who}"
        until(lambda: list(folder.glob("step-*.pt")))  # its first, which it writes in any case
        earlier = set(folder.glob("step-*.pt"))
        (first,) = map(_step, earlier)
        stages.until(who, lambda s: s["step"] > first)  # so there is something new to save
        stages.send(hangs, signal.SIGSTOP)
        time.sleep(0.5)  # its window is full, or it has nothing to do
        stages.send(who, signal.SIGTERM)
        until(lambda: set(folder.glob("step-*.pt")) - earlier)
        (found,) = set(folder.glob("step-*.pt")) - earlier
        time.sleep(0.5)
        assert stages.processes[who].exitcode is None  # it waits for what is on its way
        assert _step(found) > first


def _step(path):
    return int(path.name.split("-")[1])
