"""Child processes that die, make mistakes, are stopped, or lose their supervisor."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from synthgrad.distributed._supervisor import MISTAKE, ChildError, Command, Supervisor
from tests.distributed.links import until
from tests.distributed.processes import context
from tests.sockets import family

pytestmark = pytest.mark.timeout(60)

_STARTED = "import os, sys, time; open(sys.argv[1], 'a').write(f'{time.monotonic()}\\n'); "
_SAYS = (
    "import os, socket; "
    "number = int(os.environ['SYNTHGRAD_SUPERVISOR'].split(':')[0]); "
    "socket.socket(fileno=number).send(b'this is why'); "
)


def _python(code, *arguments):
    return Command([sys.executable, "-S", "-c", code, *map(str, arguments)])


def _supervisor(*commands, restarts=2, grace=5.0, progress=lambda index: 0):
    return Supervisor(commands, progress, restarts=restarts, grace=grace)


def test_a_child_that_dies_again_and_again_is_given_up_after_longer_and_longer_pauses(tmp_path):
    path = tmp_path / "started"
    supervisor = _supervisor(_python(_STARTED + "os.kill(os.getpid(), 9)", path))
    with pytest.raises(ChildError, match=r"stage 0 ended with SIGKILL for the 3\. time in a row"):
        supervisor.run()
    first, second, third = map(float, path.read_text().split())
    assert second - first > 0.2
    assert third - second > 0.4
    assert supervisor.restarted == [2]


def test_deaths_with_progress_in_between_are_not_counted(tmp_path):
    path = tmp_path / "started"
    code = _STARTED + "sys.exit(0 if len(open(sys.argv[1]).readlines()) == 6 else 7)"
    settings = {"restarts": 1, "progress": lambda index: path.exists() and path.read_text()}
    supervisor = _supervisor(_python(code, path), **settings)
    assert supervisor.run() == [b""]
    assert supervisor.restarted == [5]


def test_a_mistake_ends_all_at_once_and_says_why():
    mistaken = _python(_SAYS + f"os._exit({MISTAKE})")
    supervisor = _supervisor(_python("import time; time.sleep(60)"), mistaken)
    with pytest.raises(ChildError) as raised:
        supervisor.run()
    assert (raised.value.index, raised.value.report) == (1, b"this is why")
    assert supervisor.restarted == [0, 0]
    assert not _sleeping()


def test_what_children_report_is_returned_once_all_have_ended():
    assert _supervisor(_python(_SAYS), _python("pass")).run() == [b"this is why", b""]


def test_a_child_that_does_not_stop_is_killed(tmp_path):
    path = tmp_path / "started"
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    command = _python(deaf + _STARTED + "time.sleep(60)", path)
    began = time.monotonic()
    assert _supervisor(command, grace=0.3).run(stop=path.exists) is None
    assert time.monotonic() - began < 30
    assert not _sleeping()


def test_a_child_that_cannot_be_started_is_a_mistake():
    with pytest.raises(ChildError, match=r"stage 0 cannot be started: .*no-such-program"):
        _supervisor(Command(["/no-such-program"])).run()


def _sleeping():
    commands = [Path(f"/proc/{pid}/cmdline") for pid in family(os.getpid())]
    return [c for c in commands if c.exists() and b"time.sleep(60)" in c.read_bytes()]


def _supervise(path):
    code = (
        "import os, sys, time\n"
        "from synthgrad.distributed._supervisor import Supervised\n"
        "Supervised()\n"
        "open(sys.argv[1], 'w').write(str(os.getpid()))\n"
        "time.sleep(60)"
    )
    _supervisor(Command([sys.executable, "-c", code, str(path)])).run()


def test_children_do_not_outlive_a_supervisor_that_was_killed(tmp_path):
    path = tmp_path / "pid"
    supervisor = context.Process(target=_supervise, args=(path,))
    supervisor.start()
    until(lambda: path.exists() and path.read_text(), 40)
    child = int(path.read_text())
    assert supervisor.pid is not None
    os.kill(supervisor.pid, signal.SIGKILL)
    supervisor.join(10)

    def gone():
        try:
            return Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            return True

    until(gone, 20)
