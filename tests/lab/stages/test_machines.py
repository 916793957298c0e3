"""A store and two stages on machines of their own: only the network is shared, and no disk."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from benchmarks.link import Network, why_not

REASON = why_not()
COMMAND = [sys.executable, "-m", "synthgrad.lab.cli"]


class Machines:
    """Two hosts; what runs on one starts in its own folder."""

    def __init__(self, network, folder):
        self.network, self.folder = network, folder
        self.store = f"{network.address(0)}:29400"
        self.running = []
        for host in (0, 1):
            (folder / str(host)).mkdir()

    def start(self, host, *command):
        where = self.folder / str(host)

        def begin():
            with open(where / "said.txt", "a") as said:
                return subprocess.Popen(
                    [*COMMAND, *command],
                    cwd=where,
                    stdout=said,
                    stderr=said,
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                )

        self.running.append(self.network.call(host, begin))
        return self.running[-1]

    def stage(self, host, *more):
        where = ("--stages", "2", "--stage", str(host), "--store", self.store, "--out", "run")
        settings = ("--iterations", "2000", "--alone", "50", "--save-seconds", "1")
        return self.start(host, "stage", "digits-fcn", *where, *settings, *more)

    def status(self, host):
        try:
            return json.loads((self.folder / f"{host}/run/stage-{host}/status.json").read_text())
        except FileNotFoundError:
            return {"updates": 0}

    def said(self, host):
        return (self.folder / str(host) / "said.txt").read_text()

    def end(self):
        for process in self.running:
            process.kill()
            process.wait(10)


@pytest.mark.skipif(REASON is not None, reason=str(REASON))
@pytest.mark.timeout(300)
def test_two_machines_share_a_network_alone(tmp_path):
    with Network(2, 0.002) as network:
        machines = Machines(network, tmp_path)
        try:
            machines.start(0, "store", "--port", "29400", "--host", network.address(0))
            first = machines.stage(0)
            second = machines.stage(1, "--network-interface", network.device)
            end = time.monotonic() + 110
            while machines.status(1)["updates"] < 200:
                assert time.monotonic() < end, machines.said(1)
                time.sleep(0.05)
            second.send_signal(signal.SIGKILL)
            second.wait(10)
            again = machines.stage(1, "--network-interface", network.device, "--resume")
            assert again.wait(110) == 0, machines.said(1)
            assert first.wait(30) == 0, machines.said(0)
        finally:
            machines.end()
    assert "stage 1 is gone" in machines.said(0)
    assert "going on at step" in machines.said(1)
    runs = [tmp_path / str(host) / "run" for host in (0, 1)]
    assert [sorted(p.name for p in run.glob("stage-*")) for run in runs] == [
        ["stage-0"],
        ["stage-1"],
    ]
    assert not (runs[0] / "summary.json").exists()
    summary = json.loads((runs[1] / "summary.json").read_text())
    assert summary["metrics"]["test_error"] < 10
    assert machines.status(0)["sent"] >= 1800
