"""Work that may hang in a call that has no limit of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_POLL = 0.1


class Bounded:
    """Runs a function in a thread of its own, which is given up when one of its calls hangs.

    Args:
        run: called with this object; marks the calls that may hang with :meth:`limit`, and ends
            soon after ``closing`` is set.
        seconds: how long each of them may take.
        closing: set when the result is wanted no more.

    Attributes:
        closing: set when the caller's is, or has given up.
    """

    def __init__(
        self, run: Callable[[Bounded], Any], seconds: float, closing: threading.Event
    ) -> None:
        self.closing = threading.Event()
        self._run, self._seconds, self._wanted = run, seconds, closing
        self._done = threading.Event()
        self._until: float | None = None
        self._result: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="meeting", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether the thread is still there."""
        return self._thread.is_alive()

    @contextmanager
    def limit(self, times: float = 1.0) -> Iterator[None]:
        """Around a call that may hang.

        Args:
            times: how many times the usual it may take.

        Raises:
            RuntimeError: the caller has given up meanwhile.
        """
        self._until = time.monotonic() + times * self._seconds
        try:
            yield
        finally:
            self._until = None
        if self.closing.is_set() and not self._wanted.is_set():
            raise RuntimeError("it took too long")

    def result(self) -> Any:
        """What the function returned, or None if the caller's ``closing`` was set; waits for it.

        Raises:
            RuntimeError: a call took longer than its limit.
            BaseException: what the function raised.
        """
        while not self._done.wait(_POLL):
            until = self._until
            if until is not None and time.monotonic() > until:
                self.closing.set()
                raise RuntimeError(f"no answer within {self._seconds:g} s")
            if self._wanted.is_set():
                self.closing.set()
        if self._error is not None:
            raise self._error
        return self._result

    def _work(self) -> None:
        try:
            self._result = self._run(self)
        except BaseException as error:  # raised in the caller's thread
            self._error = error
        finally:
            self._done.set()
