"""Child processes that are started again when they die, and that do not outlive this one.

Nothing here listens: a supervisor and its child share a pair of connected sockets of the kernel's.
The child says over it what came of its work; and where the supervisor is gone, however it died, the
child reads the end of it.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from synthgrad.errors import SynthgradError

MISTAKE = 3
"""The exit code of a child whose error would only come again."""
_CHANNEL = "SYNTHGRAD_SUPERVISOR"
"""The environment variable with the number of the child's socket, its grace, and who made it."""
_POLL = 0.05
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 30.0
"""Seconds before a child is started again; twice as many each time, while there is no progress."""
LARGEST_REPORT = 1 << 16
"""Bytes of a report: less than a socket holds, so that a child never waits for its supervisor."""


class ChildError(SynthgradError):
    """A child failed, and is not started again.

    Attributes:
        index: which.
        report: what it said of a mistake that would only come again; empty where it just died.
    """

    def __init__(self, text: str, index: int, report: bytes) -> None:
        super().__init__(text)
        self.index, self.report = index, report


@dataclass(frozen=True)
class Command:
    """How a child is started.

    Attributes:
        arguments: of its command line.
        log: where what it prints goes; None for where this process's goes.
        environment: variables that it has besides this process's own.
    """

    arguments: Sequence[str]
    log: Path | None = None
    environment: dict[str, str] = field(default_factory=dict)


class _Child:
    """A process that runs, and what is known of those that ran in its place before."""

    def __init__(self, command: Command, grace: float, progress: Callable[[], Any]) -> None:
        self.command, self.grace, self.progress = command, grace, progress
        self.process: subprocess.Popen[bytes] | None = None
        self.report = b""
        self.failures = 0  # in a row, without any progress
        self.restarts = 0
        self.start_at = 0.0
        self._channel: socket.socket | None = None
        self._before: Any = None

    def start(self) -> None:
        ours, theirs = socket.socketpair()
        channel = f"{theirs.fileno()}:{self.grace}:{os.getpid()}"
        log = None
        try:
            if self.command.log is not None:
                self.command.log.parent.mkdir(parents=True, exist_ok=True)
                log = open(self.command.log, "ab")  # noqa: SIM115
            self._before = self.progress()
            # In a session of its own, so that Ctrl-C comes through the supervisor alone, and once.
            self.process = subprocess.Popen(
                self.command.arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=(theirs.fileno(),),
                env={**os.environ, **self.command.environment, _CHANNEL: channel},
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            if log is not None:
                log.close()
        ours.setblocking(False)
        self._channel = ours

    def ended(self) -> int | None:
        """The exit code of a process that has ended; its report is there then."""
        if self.process is None:
            return None
        code = self.process.poll()
        if code is not None and self._channel is not None:
            parts = []
            with suppress(OSError):  # nothing more to read, or reset
                while part := self._channel.recv(LARGEST_REPORT):
                    parts.append(part)
            self.report = b"".join(parts)
            self._channel.close()
            self._channel = None
        return code

    def moved(self) -> bool:
        """Whether there has been progress since it was started last."""
        return self.progress() != self._before

    def signal(self, number: int, *, group: bool = False) -> None:
        if self.process is not None and self.process.poll() is None:
            with suppress(ProcessLookupError):
                (os.killpg if group else os.kill)(self.process.pid, number)


class Supervisor:
    """Keeps one child process for each command until all have ended well.

    A child that dies is started again, after a pause that grows, as long as there is progress.

    Args:
        commands: how each is started; the first time, and again.
        progress: of a child, anything that is another value once it has got further; asked before
            a start and after a death.
        restarts: how often a child may be started again in a row without any progress.
        grace: seconds that children have to stop once they were asked to.
        name: what they are called in errors and log lines.
        say: called with a line about a child that is started again.

    Attributes:
        restarted: how often each child was started again.
    """

    def __init__(
        self,
        commands: Sequence[Command],
        progress: Callable[[int], Any],
        *,
        restarts: int,
        grace: float,
        name: str = "stage",
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._children = [
            _Child(command, grace, lambda index=index: progress(index))
            for index, command in enumerate(commands)
        ]
        self._restarts, self._grace = restarts, grace
        self._name, self._say = name, say

    @property
    def restarted(self) -> list[int]:
        """How often each child was started again."""
        return [child.restarts for child in self._children]

    def run(
        self,
        stop: Callable[[], bool] = lambda: False,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> list[bytes] | None:
        """Starts all children and waits for them; none is left behind, whatever happens.

        Args:
            stop: asked many times a second whether it is time to stop.
            meanwhile: called as often.

        Returns:
            What each child reported at its end; None if told to stop.

        Raises:
            ChildError: a child reported a mistake, or died too often without any progress.
        """
        try:
            while not stop():
                for index, child in enumerate(self._children):
                    self._look_after(index, child)
                if all(child.ended() == 0 for child in self._children):
                    return [child.report for child in self._children]
                meanwhile()
                time.sleep(_POLL)
            return None
        finally:
            self._stop()

    def _look_after(self, index: int, child: _Child) -> None:
        code = child.ended()
        if code == 0:
            return
        if code is not None:
            self._judge(index, child, code)
            child.process = None
        if child.process is None and time.monotonic() >= child.start_at:
            try:
                child.start()
            except OSError as error:
                raise ChildError(
                    f"{self._name} {index} cannot be started: {error}", index, b""
                ) from None

    def _judge(self, index: int, child: _Child, code: int) -> None:
        """Of a child that died: when it is started again.

        Raises:
            ChildError: it is not.
        """
        how = _how(code)
        if code == MISTAKE and child.report:
            text = f"{self._name} {index} failed with what would only come again"
            raise ChildError(text, index, child.report)
        child.failures = 1 if child.moved() else child.failures + 1
        if child.failures > self._restarts:
            said = child.report.decode(errors="replace")
            raise ChildError(
                f"{self._name} {index} ended with {how} for the {child.failures}. time in a row, "
                f"with no newer checkpoint in between{said and f': {said}'}",
                index,
                b"",
            )
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** (child.failures - 1))
        child.start_at = time.monotonic() + pause
        child.restarts += 1
        self._say(f"{self._name} {index} ended with {how} and is started again in {pause:g} s")

    def _stop(self) -> None:
        """Asks those that still run to stop, and sees that they do."""
        for child in self._children:
            child.signal(signal.SIGTERM)
        end = time.monotonic() + self._grace
        try:
            for child in self._children:
                if child.process is not None:
                    with suppress(subprocess.TimeoutExpired):
                        child.process.wait(max(0.1, end - time.monotonic()))
        finally:  # also when a second Ctrl-C cuts the waiting short
            for child in self._children:
                child.signal(signal.SIGKILL, group=True)
                if child.process is not None:
                    child.process.wait()
                child.ended()


class Supervised:
    """A child's side: reports to its supervisor, and ends the child when that is gone.

    To be made first of all, by a process that a :class:`Supervisor` started. Where the supervisor
    is gone, this process gets the SIGTERM that it would have sent, and SIGKILL's due when its
    time is over.
    """

    def __init__(self) -> None:
        number, grace, parent = os.environ.pop(_CHANNEL).split(":")
        self._channel = socket.socket(fileno=int(number))
        self._channel.set_inheritable(False)
        self._channel.settimeout(1.0)
        self._grace, self._parent = float(grace), int(parent)
        threading.Thread(target=self._follow, name="supervisor", daemon=True).start()

    def end(self, code: int, report: bytes = b"") -> NoReturn:
        """Ends this process at once, whatever else still runs in it.

        Args:
            code: 0 where all is well; :data:`MISTAKE` for an error that would only come again.
            report: for the supervisor, :data:`LARGEST_REPORT` bytes at most.
        """
        with suppress(OSError):  # it is gone
            self._channel.sendall(report[:LARGEST_REPORT])
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # a disk that is full must not change the code
                stream.flush()
        os._exit(code)

    def _follow(self) -> None:
        # Nothing is ever sent to a child: what comes is the end. The other sign is for a supervisor
        # that left a fork of its own, which holds the socket open.
        while os.getppid() == self._parent:
            try:
                self._channel.recv(1)
            except TimeoutError:
                continue
            except OSError:
                pass
            break
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(self._grace)
        os._exit(1)


def _how(code: int) -> str:
    try:
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"
    except ValueError:
        return f"signal {-code}"
