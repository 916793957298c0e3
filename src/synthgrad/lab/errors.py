"""The user's mistakes on the command line and in files."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from synthgrad.errors import SynthgradError

UNUSABLE = frozenset(
    (
        *(errno.ENAMETOOLONG, errno.ELOOP, errno.ENOENT, errno.ENOTDIR, errno.EISDIR),
        *(errno.EEXIST, errno.EACCES, errno.EPERM, errno.EROFS),
    )
)
"""What the system says of a path that cannot be used as given, and not of a disk that failed."""


class UsageError(SynthgradError):
    """An argument cannot be used as given; the command ends with exit code 2.

    Not a ValueError: the argument parser would take one for its own, and wrap it.
    """


class RunError(SynthgradError):
    """A run folder or a checkpoint is not what it should be; exit code 1."""


class Diverged(RunError):
    """Training went to infinity, or forgot what it had learned; exit code 1."""


def check_path(option: str, path: Path) -> None:
    """Looks whether a path, which need not exist, can be one at all.

    Raises:
        UsageError: it is too long, a loop of links, or out of reach.
    """
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise UsageError(f"{option}: {path} cannot be used: {error.strerror}") from None
