r"""The auxiliary task: at every step the core also predicts the synthetic gradient T steps ahead.

Fig. 2 (b): an extra output :math:`\hat{\hat\delta}_{t+T}` at every step t is trained to minimise
:math:`\lVert \hat{\hat\delta}_{t+T} - \hat\delta_{t+T} \rVert`. With chunks of T steps, step i of
one chunk predicts what the feedback model says at step i of the next. So its target comes one chunk
later, and what is kept between chunks is each step's message. The prediction is then made again,
by the parameters of the day.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from synthgrad._nest import describe, transform
from synthgrad._sandbox import preserved
from synthgrad.errors import ArgumentError, ShapeError
from synthgrad.feedback import Feedback, Regression
from synthgrad.functional import squared_error
from synthgrad.recurrent._chunk import Chunk, predict_rows
from synthgrad.recurrent.explained import Explained
from synthgrad.types import Float


def check_regression(auxiliary: Feedback) -> None:
    """Refuses a model that the task would not fit.

    Raises:
        ArgumentError: it is not fitted by regression.
    """
    if not isinstance(auxiliary, Regression):
        raise ArgumentError(
            "auxiliary must be fitted by regression (a synthgrad.feedback.Regression, such as "
            f"MLP), for that is its task; got {type(auxiliary).__name__}"
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


def zero(
    auxiliary: Feedback,
    feedback: Feedback,
    chunk: Chunk,
    messages: Tensor,
    context: Any,
    last: Float[Tensor, "batch width"],
    explained: Explained,
) -> Tensor | float:
    r"""A zero with the gradient of the task's loss, with weight 1 (D.2).

    .. math:: \sum_{i=1}^{T} \frac1B \sum_b \lVert A(m_{i,b}) - \hat\delta_{i+T,b} \rVert_2^2

    Args:
        auxiliary: A, from the message to the state's width.
        feedback: M, whose predictions are the targets.
        chunk: this one; A predicts from the messages of the one before.
        messages: this one's, ``"steps batch *message"``, detached.
        context: what M knows besides, at each step.
        last: M's prediction at the last step, which the boundary needs anyway.
        explained: counts how good A is.

    Raises:
        ShapeError: A is not as wide as the state, or the two chunks are not equally long.
    """
    if chunk.before is None:  # the first fit is a chunk away; that it cannot be is known now
        with torch.no_grad(), preserved(auxiliary):
            predict_rows(auxiliary, messages[-1], context, last.shape[1])
        return 0.0
    (before, context_before), chunk.before = chunk.before, None  # the graph alone holds them now
    if len(before) != len(messages):
        raise ShapeError(
            f"the auxiliary task lines up steps of equally long chunks; the one before had "
            f"{len(before)} steps, this one {len(messages)}. Call reset() between them"
        )
    targets = last.unsqueeze(0)
    if len(messages) > 1:
        with torch.no_grad():
            earlier = _at_every_step(feedback, messages[:-1], context, last.shape[1])
        targets = torch.cat([earlier, targets])
    if chunk.ended is not None:  # nothing lies ahead of an episode's end
        targets = targets.masked_fill(chunk.ended.view(1, -1, 1), 0)
    predicted = _at_every_step(auxiliary, before, context_before, last.shape[1])
    # squared_error is a mean over its rows, which are all steps' examples.
    loss = squared_error(predicted.flatten(0, 1), targets.flatten(0, 1)) * len(messages)
    explained.record(loss.detach(), targets.square().sum() / len(last))
    return loss - loss.detach()


def _at_every_step(
    model: Feedback, messages: Tensor, context: Any, width: int
) -> Float[Tensor, "steps batch width"]:
    """A model's predictions from ``"steps batch *message"``, all steps as one large batch."""
    steps, batch = messages.shape[:2]
    context = transform(context, lambda part: _for_all(part, steps))
    rows = predict_rows(model, messages.flatten(0, 1), context, width)
    return rows.unflatten(0, (steps, batch))


def _for_all(part: Tensor, steps: int) -> Tensor:
    """A context ``"batch ..."`` once a step; one without dimensions is every example's already."""
    return part.repeat(steps, *(1 for _ in part.shape[1:])) if part.ndim else part
