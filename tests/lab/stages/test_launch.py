"""``synthgrad launch`` from end to end, with kills and stops, and what it refuses."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from synthgrad.distributed import ChildError, Command, Supervisor, serve
from synthgrad.errors import ArgumentError
from synthgrad.lab import cli
from tests.sockets import assert_on_loopback

COMMAND = [sys.executable, "-m", "synthgrad.lab.cli", "launch", "digits-fcn", "--save-seconds", "1"]


def _launch(out, *options, **environment):
    return subprocess.Popen(
        [*COMMAND, "--out", str(out), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def _status(out, index):
    try:
        return json.loads((out / f"stage-{index}" / "status.json").read_text())
    except FileNotFoundError:
        return {"updates": 0, "pid": 0}


def _until(out, index, ready, seconds=120):
    end = time.monotonic() + seconds
    while not ready(status := _status(out, index)):
        assert time.monotonic() < end, status
        time.sleep(0.05)
    return status


@pytest.mark.timeout(400)
def test_a_launch_survives_a_kill_stops_on_sigterm_and_goes_on(tmp_path):
    out = tmp_path / "run"
    options = ("--stages", "2", "--split", "1", "3", "--patience", "60", "--iterations")
    running = _launch(out, *options, "200000")
    try:
        killed = _until(out, 1, lambda s: s["updates"] > 50)
        assert_on_loopback(running.pid, at_least=3)  # the store's process and both stages
        os.kill(killed["pid"], signal.SIGKILL)
        _until(out, 1, lambda s: s["pid"] != killed["pid"] and s["updates"] > killed["updates"])
        # A stage that is told to stop by another than the launcher is needed all the same.
        asked = _until(out, 0, lambda s: s["updates"] > 50)
        os.kill(asked["pid"], signal.SIGTERM)
        _until(out, 0, lambda s: s["pid"] != asked["pid"] and s["updates"] > asked["updates"])
        running.send_signal(signal.SIGTERM)
        _, said = running.communicate(timeout=60)
    finally:
        running.terminate()
        running.wait(60)
    assert running.returncode == 130, said
    assert "--resume goes on" in said
    stopped = [_status(out, index) for index in range(2)]
    assert [s["state"] for s in stopped] == ["stopped"] * 2
    assert 0 < stopped[0]["step"] < 200_000

    steps = str(max(s["step"] for s in stopped) + 200)  # enough to see that it goes on
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(config | {"iterations": int(steps)}))
    again = _launch(out, *options, steps, "--resume")
    try:
        printed, said = again.communicate(timeout=120)
    finally:
        again.terminate()
        again.wait(60)
    assert again.returncode == 0, said
    found = re.search(r"in 2 stages: test error ([\d.]+)%", printed)
    assert found is not None, printed
    assert float(found[1]) < 60  # the first stage went far without the other; 90 by chance
    summary = json.loads((out / "summary.json").read_text())
    assert summary["iterations"] == int(steps)
    assert "going on at step" in (out / "stage-0" / "log.txt").read_text()
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["test_error"] == summary["metrics"]["test_error"]

    # As after a kill of the last stage, between its last word to the others and its summary.
    (out / "summary.json").unlink()
    last = _launch(out, *options, steps, "--resume")
    try:
        _, said = last.communicate(timeout=50)  # less than the patience
    finally:
        last.terminate()
        last.wait(60)
    assert last.returncode == 0, said
    assert json.loads((out / "summary.json").read_text())["metrics"] == summary["metrics"]


_MISTAKEN = """
import sys
if "synthgrad.lab.stages.work" in sys.orig_argv:
    from synthgrad.lab.errors import UsageError
    from synthgrad.lab.stages import build
    made = build.build
    def mistaken(*given, index, **settings):
        if index == 1:
            raise UsageError("--nothing: expected this to go wrong")
        return made(*given, index=index, **settings)
    build.build = mistaken
"""


@pytest.mark.timeout(150)
def test_a_mistake_in_a_stage_ends_the_run_at_once(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(_MISTAKEN)
    out = tmp_path / "run"
    running = _launch(out, "--iterations", "50", PYTHONPATH=str(tmp_path))
    try:
        _, said = running.communicate(timeout=100)  # less than the patience
    finally:
        running.terminate()
        running.wait(60)
    assert running.returncode == 1
    assert said == "synthgrad: stage-1: --nothing: expected this to go wrong\n"
    assert (out / "stage-1" / "log.txt").read_text().count("--nothing") == 1


def test_a_stage_whose_log_cannot_be_written_says_all_the_same_what_is_wrong(tmp_path):
    work = [sys.executable, "-m", "synthgrad.lab.stages.work"]
    # A run folder without a configuration, on a disk that is full.
    arguments = [*work, str(tmp_path / "nothing"), "0", "127.0.0.1:1", ""]
    command = Command(arguments, log=Path("/dev/full"))
    with pytest.raises(ChildError) as raised:
        Supervisor([command], lambda index: 0, restarts=3, grace=5.0).run()
    assert raised.value.report.startswith(b"FileNotFoundError: ")
    assert b"config.json" in raised.value.report


def _answers_nonsense(listener):
    while True:
        try:
            accepted, _ = listener.accept()
        except OSError:
            return
        with accepted:
            accepted.recv(1024)
            accepted.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")


@pytest.mark.parametrize("listens", [False, True], ids=["nobody", "no store"])
def test_a_launch_at_a_wrong_store_ends_at_once(capsys, tmp_path, listens):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{listener.getsockname()[1]}"
        if listens:
            listener.listen()
            threading.Thread(target=_answers_nonsense, args=(listener,), daemon=True).start()
        with pytest.raises(SystemExit) as ended:
            cli.main(["launch", "digits-fcn", "--out", str(tmp_path / "run"), "--store", where])
        listener.close()
    assert ended.value.code == 1
    assert f"--store: no store answers at {where}" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("command", "arguments", "says"),
    [
        ("launch", ("--method", "backprop"), "--method"),
        ("launch", ("--p-update", "0.5"), "--p-update"),
        ("launch", ("--decay", "0.9"), "--decay 0.9 does nothing with --method cdni"),
        ("launch", ("--stages", "5"), "--stages"),
        ("launch", ("--split", "1", "2"), "--split"),
        ("launch", ("--split", "1", "2", "1"), "--split"),
        ("launch", ("--interfaces", "1"), "--interfaces"),
        ("launch", ("--window", "1000"), "--window"),
        ("launch", ("--restarts", "-1"), "--restarts"),
        ("launch", ("--network-interface", "eth99"), "--network-interface: there is no 'eth99'"),
        ("stage", ("--stage", "0"), "--store"),
        (
            "stage",
            ("--stage", "1", "--store", "127.0.0.1:1", "--input-learning-rate", "0.1"),
            "--input-learning-rate 0.1 does nothing with --unlock no",
        ),
        ("stage", (), "--stage"),
        ("stage", ("--stage", "2", "--store", "127.0.0.1:1"), "--stage"),
        ("stage", ("--stage", "1", "--store", "nowhere"), "--store: store must be"),
        ("stage", ("--stage", "1", "--store", ":29400"), "--store: store must be"),
        ("stage", ("--stage", "1", "--store", "0:29400"), "--store: host '0' means every"),
        ("launch", ("--store", "[::0]:29400"), "--store: host '::0' means every"),
        (
            "stage",
            ("--stage", "1", "--store", "127.0.0.1:1", "--network-interface", "eth99"),
            "--network-interface",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_what_stages_cannot_do_is_refused_by_name(capsys, tmp_path, command, arguments, says):
    where = ("--out", str(tmp_path / "run"))
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "digits-fcn", *where, *arguments])
    captured = capsys.readouterr()
    assert ended.value.code in (1, 2)
    assert says in captured.err + captured.out
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize("host", ["", " ", "*", "0", "::0", "::ffff:0.0.0.0", "no such name"])
def test_a_store_is_open_to_every_interface_only_where_that_is_said(capsys, host):
    with pytest.raises(SystemExit) as ended:
        cli.main(["store", "--port", "0", "--host", host])
    assert ended.value.code == 2
    assert "--host" in capsys.readouterr().err
    with pytest.raises(ArgumentError, match=r"host|listen"):
        serve(0, host)


def test_the_store_says_where_it_is(tmp_path):
    command = [sys.executable, "-m", "synthgrad.lab.cli", "store", "--port", "0"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert running.stdout is not None
        assert re.fullmatch(r"the stages meet at 127.0.0.1:\d+\n", running.stdout.readline())
        running.send_signal(signal.SIGTERM)
        assert running.wait(10) == 0
    finally:
        running.kill()
