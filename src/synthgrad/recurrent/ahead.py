r"""The auxiliary task: at every step the core also predicts the synthetic gradient T steps ahead.

Fig. 2 (b): an extra output :math:`\hat{\hat\delta}_{t+T}` at every step t is trained to minimise
:math:`\lVert \hat{\hat\delta}_{t+T} - \hat\delta_{t+T} \rVert`. With chunks of T steps, step i of
one chunk predicts what the feedback model says at step i of the next. So its target comes one chunk
later, and what is kept between chunks is each step's message. The prediction is then made again,
by the parameters of the day.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from synthgrad._nest import transform
from synthgrad.errors import ShapeError
from synthgrad.feedback import Feedback
from synthgrad.functional import squared_error
from synthgrad.recurrent.fit import predict, wide
from synthgrad.types import Float


def synthetic(
    feedback: Feedback, messages: Tensor, context: Any, last: Float[Tensor, "batch width"]
) -> Float[Tensor, "steps batch width"]:
    """The feedback model's predictions at each step of a chunk: the targets.

    Args:
        feedback: M.
        messages: ``"steps batch *message"``, detached.
        context: what M knows besides, at each step.
        last: its prediction at the last step, which the boundary needs anyway.
    """
    if len(messages) == 1:
        return last.unsqueeze(0)
    with torch.no_grad():
        earlier = at_every_step(feedback, messages[:-1], context, last.shape[1])
    return torch.cat([wide(earlier), last.unsqueeze(0)])


def at_every_step(
    model: Feedback, messages: Tensor, context: Any, width: int
) -> Float[Tensor, "steps batch width"]:
    """A model's predictions from ``"steps batch *message"``, all steps as one large batch."""
    steps, batch = messages.shape[:2]
    context = transform(context, lambda part: _for_all(part, steps))
    rows = predict(model, messages.flatten(0, 1), context, width)
    return rows.unflatten(0, (steps, batch))


def _for_all(part: Tensor, steps: int) -> Tensor:
    """A context ``"batch ..."`` once a step; one without dimensions is every example's already."""
    return part.repeat(steps, *(1 for _ in part.shape[1:])) if part.ndim else part


def with_graph(kept: Tensor, recomputed: Tensor) -> Tensor:
    """The last chunk's messages; those that the core computed again carry its graph.

    Args:
        kept: ``"steps batch *message"``, detached.
        recomputed: the last step's, ``"batch *message"``; or those of all steps.

    Raises:
        ShapeError: it is neither.
    """
    if recomputed.shape == kept.shape:
        return recomputed.to(kept.dtype)
    if recomputed.shape == kept.shape[1:]:
        if len(kept) == 1:  # nothing to join; and torch.compile fails on an empty part
            return recomputed.to(kept.dtype).unsqueeze(0)
        return torch.cat([kept[:-1], recomputed.to(kept.dtype).unsqueeze(0)])
    raise ShapeError(
        f"last_core must return the message it returned in the chunk before, "
        f"{tuple(kept.shape[1:])}, or those of all steps, {tuple(kept.shape)}; it returned "
        f"{tuple(recomputed.shape)}"
    )


def loss(
    auxiliary: Feedback,
    messages: Tensor,
    context: Any,
    targets: Tensor,
    ended: Tensor | None,
) -> tuple[Tensor, Tensor]:
    r"""The auxiliary regression loss, with weight 1 (D.2), and the square of its targets.

    .. math:: \sum_{i=1}^{T} \frac1B \sum_b \lVert A(m_{i,b}) - \hat\delta_{i+T,b} \rVert_2^2

    Args:
        auxiliary: A, from the message to the state's width.
        messages: of the chunk before, ``"steps batch *message"``.
        context: what A knows besides.
        targets: this chunk's synthetic errors, ``"steps batch width"``, per example.
        ended: rows whose episode ended between the two: nothing lies ahead of it, so their target
            is zero.

    Raises:
        ShapeError: the two chunks are not equally long.
    """
    if len(messages) != len(targets):
        raise ShapeError(
            f"the auxiliary task lines up steps of equally long chunks; the one before had "
            f"{len(messages)} steps, this one {len(targets)}. Call reset() between them"
        )
    target = targets
    if ended is not None:
        target = target.masked_fill(ended.view(1, -1, 1), 0)
    prediction = wide(at_every_step(auxiliary, messages, context, target.shape[-1]))
    # squared_error is a mean over its rows, which are all steps' examples.
    error = squared_error(prediction.flatten(0, 1), target.flatten(0, 1)) * len(messages)
    return error, target.square().sum() / target.shape[1]
