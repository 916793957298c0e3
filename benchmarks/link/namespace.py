"""A network namespace without a name: it goes when the last that uses it goes.

Nothing has to be tidied up after a crash, and two runs cannot meet, because there is no name.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_OWN = "/proc/thread-self/ns/net"


class Namespace:
    """A network namespace of its own, held open by a file descriptor.

    Which namespace a socket or a child process belongs to is decided by the thread that makes it,
    so whatever has to happen inside runs in a short thread of its own.

    Raises:
        OSError: the system does not allow it, for example without root.
    """

    def __init__(self) -> None:
        self._fd = -1
        self._fd = _in_thread(_unshared)

    def call(self, function: Callable[[], T]) -> T:
        """Runs a function inside; sockets and processes that it makes stay there."""

        def entered() -> T:
            _checked("setns", self._fd, _CLONE_NEWNET)
            return function()

        return _in_thread(entered)

    @property
    def path(self) -> str:
        """For :func:`enter`, in any process."""
        return f"/proc/{os.getpid()}/fd/{self._fd}"

    def close(self) -> None:
        """Lets go of it. It lives on while a process or a socket is inside."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    __del__ = close


def enter(path: str) -> None:
    """Moves the calling thread into a namespace; threads that it starts will be there too.

    Args:
        path: :attr:`Namespace.path`.

    Raises:
        OSError: it is gone, or the system does not allow it.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _checked("setns", fd, _CLONE_NEWNET)
    finally:
        os.close(fd)


def _unshared() -> int:
    _checked("unshare", _CLONE_NEWNET)
    return os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)


def _checked(name: str, *arguments: int) -> None:
    # os.unshare and os.setns are there only from Python 3.12 on.
    function = getattr(ctypes.CDLL(None, use_errno=True), name)
    if function(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _in_thread(function: Callable[[], T]) -> T:
    result: list[Any] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            result.append(function())
        except BaseException as error:  # handed to the caller
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return result[0]
