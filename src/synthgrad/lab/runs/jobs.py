"""Jobs one after the other, or side by side in processes of their own."""

from __future__ import annotations

import io
import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from synthgrad.lab.errors import RunError
from synthgrad.lab.runs.signals import SIGNALS, Stopped, noted_signals

_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Job:
    """One call, which may travel to another process.

    Attributes:
        name: what messages call it.
        call: a function of a module's top level.
        arguments: what it is called with, by keyword.
    """

    name: str
    call: Callable[..., Any]
    arguments: Mapping[str, Any]


Outcome = Any | Exception
"""What a job returned, or the exception that ended it."""


def in_turn(jobs: Iterable[Job]) -> Iterator[tuple[Job, Outcome]]:
    """Does the jobs here, one after the other.

    Raises:
        Stopped: a signal came; says in which job.
    """
    for job in jobs:
        try:
            outcome = job.call(**job.arguments)
        except (Stopped, KeyboardInterrupt):
            raise Stopped(f"stopped in {job.name}") from None
        except Exception as error:
            outcome = error
        yield job, outcome


def side_by_side(jobs: Iterable[Job], at_once: int) -> Iterator[tuple[Job, Outcome]]:
    """Does the jobs in ``at_once`` processes, and yields each when it is done.

    A process that dies loses its own job and no other. On SIGINT or SIGTERM the jobs under way
    are stopped and no other is begun.

    Raises:
        Stopped: a signal came; all jobs have stopped. Says which were under way.
    """
    waiting = iter(jobs)
    running: dict[Future[Any], tuple[Job, ProcessPoolExecutor]] = {}
    # Pools of one process, because one that dies breaks its pool.
    idle: list[ProcessPoolExecutor] = []
    others = set(multiprocessing.active_children())
    stopped = Stopped("stopped before the first job")
    with noted_signals() as asked:
        try:
            while not asked:
                while len(running) < at_once and (job := next(waiting, None)) is not None:
                    pool = idle.pop() if idle else _pool()
                    with _blocked():
                        running[pool.submit(_do, job)] = job, pool
                if not running:
                    return
                names = ", ".join(job.name for job, _ in running.values())
                stopped = Stopped(f"stopped in {names}")
                done = wait(running, _POLL_SECONDS, return_when=FIRST_COMPLETED).done
                for future in done:
                    job, pool = running.pop(future)
                    idle.append(pool)
                    outcome = future.exception() or future.result()
                    if isinstance(outcome, Stopped):  # a process has it before we do, or alone
                        raise stopped
                    if isinstance(outcome, BrokenProcessPool):
                        idle.remove(pool)
                        pool.shutdown()
                        outcome = RunError("its process died, perhaps for want of memory")
                    yield job, outcome
            raise stopped
        finally:
            if running:
                for process in set(multiprocessing.active_children()) - others:
                    process.terminate()
            for pool in (*idle, *(pool for _, pool in running.values())):
                pool.shutdown()


def _pool() -> ProcessPoolExecutor:
    # A fork would lack the threads that PyTorch has started here.
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, mp_context=spawn, initializer=_begin)


@contextmanager
def _blocked() -> Iterator[None]:
    """Keeps signals back, also in a process that starts inside, until that one is ready."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Worker:
    """The part of a process that does jobs: a signal stops its job, and leaves it be between."""

    def __init__(self) -> None:
        self.busy = False
        self.asked = False

    def begin(self) -> None:
        """Gets a new process ready."""
        for number in SIGNALS:
            signal.signal(number, self._stop)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        # Several progress bars cannot share a screen: plain lines, as in a file.
        sys.stderr = _Lines(sys.stderr.buffer, line_buffering=True)

    def do(self, job: Job) -> Any:
        """Does one job.

        Raises:
            Stopped: a signal came, now or before.
        """
        self.busy = True
        try:
            if self.asked:
                raise Stopped
            return job.call(**job.arguments)
        finally:
            self.busy = False

    def _stop(self, *_: Any) -> None:
        self.asked = True
        if self.busy:
            raise Stopped


class _Lines(io.TextIOWrapper):
    def isatty(self) -> bool:
        return False


_worker = _Worker()


def _begin() -> None:
    _worker.begin()


def _do(job: Job) -> Any:
    return _worker.do(job)
