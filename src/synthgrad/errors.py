"""The errors that the library raises for a user's mistakes.

Each one names the interface where it happened, what came and what was expected.
"""

from __future__ import annotations

from collections.abc import Callable


class SynthgradError(Exception):
    """Base of every error that synthgrad raises on purpose.

    Attributes:
        about: which parts of the model it is about, the outermost first (:class:`about`).
    """

    about: tuple[str, ...] = ()


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


class about:
    """Says of every error of ours that leaves the block what it is about, once.

    ``with about("interface 'hidden'"): ...`` puts ``interface 'hidden': `` before the text. Blocks
    nest, so that a stage stands before the interface in it. A label that the error has already is
    not said again, and one that goes on where the error's first label ends takes its place.

    Args:
        label: what the block is about; or a function that returns it, called where there is an
            error to name.
    """

    __slots__ = ("_label",)

    def __init__(self, label: str | Callable[[], str]) -> None:
        self._label = label

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if not isinstance(error, SynthgradError):
            return
        label = self._label if isinstance(self._label, str) else self._label()
        if label in error.about:
            return
        text, labels = str(error), error.about
        if labels and label.startswith(labels[0]):
            text, labels = text.removeprefix(f"{labels[0]}: "), labels[1:]
        error.args = (f"{label}: {text}",)
        error.about = (label, *labels)
