"""The user's mistakes on the command line and in files."""

from __future__ import annotations

from synthgrad.errors import SynthgradError


class UsageError(SynthgradError):
    """An argument cannot be used as given; the command ends with exit code 2.

    Not a ValueError: the argument parser would take one for its own, and wrap it.
    """


class RunError(SynthgradError):
    """A run folder or a checkpoint is not what it should be; exit code 1."""
