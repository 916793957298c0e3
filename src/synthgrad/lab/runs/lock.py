"""One process to a run folder: a lock that ends with the process that has it."""

from __future__ import annotations

import errno
import fcntl
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from synthgrad.errors import SynthgradWarning
from synthgrad.lab.errors import UsageError

NAME = ".lock"


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Holds a folder for this process; one that is not there is made, and goes if it stays empty.

    The lock is the kernel's (flock) on a file in the folder that names the process: however the
    process ends, the lock is gone, and the file that may be left says nothing.

    Raises:
        UsageError: another process has the folder; names its id.
        OSError: the folder cannot be written.
    """
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    file = _locked(path)
    try:
        os.ftruncate(file, 0)
        os.write(file, f"{os.getpid()}\n".encode())
        yield
    finally:
        with suppress(OSError):  # by then the folder itself may have gone
            path.unlink(missing_ok=True)  # while it is locked, so that nobody else's is taken away
            if made:
                folder.rmdir()  # unless something came of it
        os.close(file)


def refuse_if_held(folder: Path) -> None:
    """Looks whether another process has a folder, which need not exist; leaves nothing behind.

    Raises:
        UsageError: it has; names its id.
    """
    try:
        file = os.open(folder / NAME, os.O_RDONLY | _PLAIN)
    except OSError:
        return
    try:
        _lock(file, folder / NAME)
    finally:
        os.close(file)


_HELD = (errno.EWOULDBLOCK, errno.EACCES)
_TRIES = 5
_PLAIN = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def _locked(path: Path) -> int:
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | _PLAIN, 0o644)
        try:
            _lock(file, path)
            if _is_still(path, file):
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # who had it took the file away between our two calls


def _lock(file: int, path: Path) -> None:
    for left in reversed(range(_TRIES)):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if left and error.errno in _HELD:  # perhaps by one that only looks
                time.sleep(0.01)
                continue
            _refuse(error, file, path)
            return


def _refuse(error: OSError, file: int, path: Path) -> None:
    if error.errno in _HELD:
        holder = os.pread(file, 20, 0).decode("ascii", "replace").strip() or "unknown"
        raise UsageError(
            f"--out: another process (pid {holder}) works in {path.parent}; wait for it, or give "
            "another folder"
        )
    warnings.warn(
        f"{path.parent} cannot be locked ({error.strerror}): see to it that no second process runs "
        "in it",
        SynthgradWarning,
        stacklevel=5,
    )


def _is_still(path: Path, file: int) -> bool:
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(file))
