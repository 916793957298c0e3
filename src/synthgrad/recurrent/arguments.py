"""Refuses what a user passes wrongly, by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from synthgrad import _checks
from synthgrad._nest import describe, every, floating
from synthgrad.errors import ArgumentError, ShapeError, SynthgradError
from synthgrad.feedback import Feedback, Regression

if TYPE_CHECKING:
    from synthgrad.recurrent.configured import Configured
    from synthgrad.recurrent.layout import BatchDim


@contextmanager
def naming(bridge: Configured) -> Iterator[None]:
    """Puts the interface's name in front of every error of ours that passes."""
    try:
        yield
    except SynthgradError as error:
        if str(error).startswith("recurrent interface "):
            raise
        raise type(error)(f"{bridge.label}: {error}") from error


def check_feedback(feedback: Any, auxiliary: Any) -> None:
    """Refuses models that cannot predict the error of a state.

    Raises:
        ArgumentError: one is no feedback model, or M is fitted to values of the loss, or A is not
            fitted by regression.
    """
    for role, model in (("feedback", feedback), ("auxiliary", auxiliary)):
        if not (isinstance(model, Feedback) or (model is None and role == "auxiliary")):
            raise ArgumentError(
                f"{role} must be a synthgrad.feedback.Feedback, got {type(model).__name__}"
            )
        if isinstance(model, Feedback) and model.fitted_to != "error":
            raise ArgumentError(
                f"{role} must be fitted to errors; {type(model).__name__} is fitted to values of "
                "the loss, and those of the chunks to come do not arrive at a boundary"
            )
    if auxiliary is not None and not isinstance(auxiliary, Regression):
        raise ArgumentError(
            "auxiliary must be fitted by regression (a synthgrad.feedback.Regression, such as "
            f"MLP), for that is its task; got {type(auxiliary).__name__}"
        )


def check_scale(scale: Any) -> None:
    """Refuses numbers outside their range.

    Raises:
        ArgumentError: ``scale`` is no number, negative or not finite.
    """
    _checks.number("scale", scale, 0)


def check_reduction(reduction: Any) -> None:
    """Refuses unknown words.

    Raises:
        ArgumentError: ``reduction`` is one.
    """
    _checks.word("reduction", reduction, ("mean", "sum"))


def check_batch_dim(batch_dim: Any) -> BatchDim:
    """One dimension, one for each tensor, or None.

    Raises:
        ArgumentError: it is something else.
    """
    several = isinstance(batch_dim, Sequence)
    dims = tuple(batch_dim) if several else () if batch_dim is None else (batch_dim,)
    if isinstance(batch_dim, str) or not all(
        isinstance(dim, int) and not isinstance(dim, bool) for dim in dims
    ):
        raise ArgumentError(
            f"batch_dim must be a dimension, or a tuple with one for each tensor, got {batch_dim!r}"
        )
    return dims if several else batch_dim


def check_last_core(
    last_core: Any, feedback_into_core: bool, feedback: Feedback, auxiliary: Feedback | None
) -> None:
    """Refuses options that need each other.

    Raises:
        ArgumentError: M's error shall flow into the core and cannot; or nothing would flow there.
    """
    _checks.functions(last_core=last_core)
    _checks.flag("feedback_into_core", feedback_into_core)
    if feedback_into_core and last_core is None:
        raise ArgumentError(
            "feedback_into_core=True needs last_core, a function that computes the last message "
            "again: the graph of the one that was sent is gone when its error arrives"
        )
    if feedback_into_core and not isinstance(feedback, Regression):
        raise ArgumentError(
            "feedback_into_core=True needs a feedback model fitted by regression, got "
            f"{type(feedback).__name__}"
        )
    if last_core is not None and not feedback_into_core and auxiliary is None:
        raise ArgumentError(
            "last_core carries regression errors into the core; without an auxiliary model and "
            "with feedback_into_core=False there is none"
        )


def check_message(message: Any) -> None:
    """Refuses what no feedback model can see.

    Raises:
        ShapeError: it is not one floating-point tensor with a batch.
    """
    if not _checks.is_dense(message) or message.ndim < 2:
        raise ShapeError(
            "a message is one dense floating-point tensor (batch, ...), got "
            f"{_checks.came(message)}"
        )


def check_state(state: Any) -> list[Tensor]:
    """The state's floating-point tensors.

    Raises:
        ShapeError: there are none; or one is complex, or has no dimension for the batch.
    """
    tensors = floating(state)
    if not tensors:
        raise ShapeError(
            "a state is a floating-point tensor or a nest (tuple, list, dict) of them, got "
            f"{describe(state)}"
        )
    for tensor in every(state):
        if tensor.is_complex() or (tensor.is_floating_point() and tensor.ndim == 0):
            raise ShapeError(
                f"a state's tensors are real and have a batch dimension, got {tensor.dtype} of "
                f"shape {tuple(tensor.shape)}"
            )
    return tensors


def check_same(state: Any, expected: str, whose: str) -> None:
    """Refuses a state whose nest or shapes have changed.

    Raises:
        ShapeError: they have.
    """
    if (found := describe(state)) != expected:
        raise ShapeError(
            f"the state is {found}, but {whose} {expected}; expected the same nest and shapes "
            "(reset() begins anew with others)"
        )


def check_steps(
    message: Tensor, steps: Tensor | Sequence[Tensor] | None, auxiliary: Feedback | None
) -> Tensor:
    """The detached messages of all steps, ``"steps batch *message"``, or of the last alone.

    Raises:
        ArgumentError: there is no auxiliary task to use them.
        ShapeError: they are no messages like the last one.
    """
    if steps is None:
        return message.detach().unsqueeze(0)
    if auxiliary is None:
        raise ArgumentError("steps are the auxiliary task's, and this interface has none")
    if isinstance(steps, Tensor):
        count, shapes = len(steps) if steps.ndim else 0, [tuple(steps.shape[1:])]
    elif isinstance(steps, tuple | list) and all(isinstance(step, Tensor) for step in steps):
        count, shapes = len(steps), sorted({tuple(step.shape) for step in steps})
    else:
        count, shapes = 0, []
    if not count or shapes != [tuple(message.shape)]:
        came = f"{count} of {', '.join(map(str, shapes))}" if count else describe(steps)
        raise ShapeError(
            f"steps must hold messages like the last one, {tuple(message.shape)}, time first; got "
            f"{came}"
        )
    return steps.detach() if isinstance(steps, Tensor) else torch.stack(list(steps)).detach()


def check_inputs(inputs: Any, last_core: Any) -> None:
    """Refuses inputs without a core that takes them, and a core without inputs.

    Raises:
        ArgumentError: one of them is missing, or ``inputs`` is no tuple.
    """
    if last_core is None and inputs is not None:
        raise ArgumentError("inputs are those of last_core, and this interface has none")
    if last_core is not None and not isinstance(inputs, tuple):
        raise ArgumentError(
            "end() needs inputs=(...), a tuple of the arguments of last_core at the chunk's last "
            f"step; got {type(inputs).__name__}"
        )
