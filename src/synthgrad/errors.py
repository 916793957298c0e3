"""The errors that the library raises for a user's mistakes.

Each one names the interface where it happened, what came and what was expected.
"""

from __future__ import annotations


class SynthgradError(Exception):
    """Base of every error that synthgrad raises on purpose."""


class ArgumentError(SynthgradError, ValueError):
    """An argument has a value outside its range, or names something that does not exist."""


class ShapeError(SynthgradError, ValueError):
    """A message, target or context does not have the shape that its interface was built for."""


class ContextError(SynthgradError, ValueError):
    """A conditional feedback model got no context, or one that does not fit its message."""


class NonFiniteError(SynthgradError, ArithmeticError):
    """An error that came back to an interface holds NaN or infinity."""


class LockingError(SynthgradError, RuntimeError):
    """The graph does not allow what the schedule asks: a skip around a cut, a missing error."""


class SynthgradWarning(UserWarning):
    """Base of the warnings that synthgrad emits."""
