"""A chunk between its begin() and its end(), and where errors enter and leave its graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from synthgrad._finite import refusal
from synthgrad._graph import current_walk
from synthgrad._prediction import Prediction, in_precision, predict
from synthgrad.errors import LockingError, about
from synthgrad.feedback import Feedback, Regression
from synthgrad.functional import mix, regression_grad
from synthgrad.recurrent._state import Layout
from synthgrad.recurrent.explained import Explained
from synthgrad.types import Float

Errors = Sequence[Tensor | None]


class Chunk:
    """What a chunk's begin() and end(), and the nodes in its graph, have to know of each other.

    Args:
        form: what its state looks like.

    Attributes:
        ended: the rows whose episode ended before it began, ``"batch"``, or None.
        before: the messages of the chunk before and their context, from which the auxiliary model
            predicted this one's synthetic errors; None once they are used, or where there are none.
        has_end: whether there is a scalar of :meth:`RecurrentInterface.end` for it.
        weight: what the loss was multiplied by before the backward pass (a loss scaler, an
            average over several chunks): that scalar's gradient. Whoever compares errors with
            predictions needs it. None before the backward pass.
        walk: which backward pass brought the weight; None before it.
    """

    def __init__(self, form: str) -> None:
        self.form = form
        self.ended: Tensor | None = None
        self.before: tuple[Tensor, Any] | None = None
        self.has_end = False
        self.weight: Tensor | None = None
        self.walk: int | None = None

    def expect_weight(self) -> Tensor | None:
        """The weight, once errors come back; None for 1, in a chunk that was not ended.

        Raises:
            LockingError: there is a scalar, and it is not in the loss.
        """
        if self.weight is None and self.has_end:
            raise LockingError(
                "an error came back to begin(), but none to the scalar that end() returned for the "
                "same chunk; expected it in the loss: loss = loss + bridge.end(state, message)"
            )
        return self.weight

    def refuse_second_run(self) -> None:
        """Torch's checkpoint runs a chunk again in its own backward pass, after its end().

        Raises:
            LockingError: this is such a backward pass.
        """
        walk = current_walk()
        if walk is not None and self.walk in (None, walk):
            raise LockingError(
                "begin() was called in the backward pass of a chunk that has ended already, as "
                "torch.utils.checkpoint does with use_reentrant=False around begin() and end(). "
                "What that chunk began with is gone; checkpoint the core alone, or with "
                "use_reentrant=True"
            )


@dataclass(eq=False)
class Crossing:
    """A state on its way into a chunk, or from step to step; answers its real error.

    Attributes:
        prediction: of the error; the feedback model is fitted with it.
        chunk: in whose graph the error arrives.
        layout: of the state.
        label: how errors call the interface.
        explained: counts how good the prediction was.
        reduction: how the loss joins a batch.
        check_finite: whether the error is checked, on a CPU.
        arrived: called when it arrives.
        ended: rows whose target is zero, ``"batch"``.
        lambda_: the weight of the real error in what goes on below; None if nothing does.
        scale: of the synthetic error there.
    """

    prediction: Prediction
    chunk: Chunk
    layout: Layout
    label: Callable[[], str]
    explained: Explained
    reduction: str
    check_finite: bool
    arrived: Callable[[], None]
    ended: Tensor | None = None
    lambda_: float | None = None
    scale: float = 1.0

    def pass_on(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The state's floating-point tensors for their receivers, whose errors come together."""
        prediction = self.prediction
        saved = [prediction.synthetic]
        if prediction.learns and not prediction.by_regression:
            saved.append(prediction.message)
        crossed = _Cross.apply(self, len(tensors), saved, *tensors, *prediction.fitted)
        prediction.release()
        return list(cast(Any, crossed))

    def __call__(self, errors: Sequence[Tensor], *saved: Tensor) -> tuple[Errors, Errors]:
        """The errors that go on below, and a gradient for what is fitted."""
        self.arrived()
        synthetic, target = saved[0], wide(self.layout.rows(errors))
        with about(self.label):
            weight = self.chunk.expect_weight()
            if self.ended is not None:
                target = target.masked_fill(self.ended.unsqueeze(1), 0)
            if weight is not None:
                synthetic = synthetic * weight
            size = torch.linalg.vector_norm(target)
            if self.check_finite and target.device.type == "cpu":
                _refuse_non_finite(target, size)
            fit = self.prediction.answer(target, synthetic, saved[-1], weight)
        grad = fit[0] if self.prediction.by_regression and fit else None
        if grad is None:
            grad = regression_grad(synthetic, target, self.reduction)
        self._count(torch.linalg.vector_norm(grad), size, weight)
        return self._below(errors, synthetic), fit

    def _count(self, error: Tensor, size: Tensor, weight: Tensor | None) -> None:
        """Counts the prediction, by the norms of the regression's gradient and of its target."""
        batch = self.layout.batch
        # In per-example errors, the mean over the batch; for a mean loss they are ``batch`` times
        # the target, and for either the gradient is 2/batch times their difference.
        scale = batch if self.reduction == "mean" else 1 / batch
        if weight is not None:  # before they are squared, for a loss may be scaled up a lot
            error, size = error / weight, size / weight
        self.explained.record(error.square() * (batch / 4), size.square() * scale)

    def _below(self, errors: Sequence[Tensor], synthetic: Tensor) -> Errors:
        if self.lambda_ is None:
            return [None] * len(errors)
        if self.lambda_ == 1:
            return errors
        parts = self.layout.split(synthetic * self.scale)
        return [mix(e, p.to(e), self.lambda_) for e, p in zip(errors, parts, strict=True)]


def predict_rows(
    feedback: Feedback, message: Tensor, context: Any, width: int
) -> Float[Tensor, "batch width"]:
    """The per-example error of a state that is ``width`` wide, from the core's message.

    Raises:
        ShapeError: the feedback model returns something else than ``(batch, width)``.
    """
    message = in_precision(message, feedback, autocasts=isinstance(feedback, Regression))
    return wide(predict(feedback, message, context, width))


def wide(tensor: Tensor) -> Tensor:
    """In single precision at least: errors are subtracted and squared."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class _Cross(torch.autograd.Function):
    """:func:`synthgrad.functional.redirect` for several tensors together."""

    @staticmethod
    def forward(
        ctx: Any, crossing: Crossing, count: int, saved: Sequence[Tensor], *rest: Tensor
    ) -> Any:
        ctx.crossing = crossing
        ctx.save_for_backward(*saved)
        return tuple(tensor.detach() for tensor in rest[:count])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *errors: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        below, fitted = ctx.crossing(errors, *ctx.saved_tensors)
        return (None, None, None, *below, *fitted)


def consume(
    tensors: Sequence[Tensor], chunk: Chunk, layout: Layout, error: Tensor | None
) -> Tensor:
    """A scalar zero whose gradient with respect to the state is ``error``, whatever the state is.

    Args:
        tensors: the state's floating-point tensors.
        chunk: learns the weight of the loss.
        layout: of the tensors.
        error: ``"batch width"``, on the scale that autograd carries; None for no error at all.
    """
    return cast(Tensor, _Consume.apply(chunk, layout, error, *tensors))


class _Consume(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, chunk: Chunk, layout: Layout, error: Tensor | None, *tensors: Tensor
    ) -> Tensor:
        ctx.chunk = chunk
        ctx.layout = layout
        ctx.dtypes = [tensor.dtype for tensor in tensors]
        ctx.save_for_backward(*([] if error is None else [error]))
        # In single precision at least, for the weight that comes back is what a loss was scaled by.
        return tensors[0].new_zeros((), dtype=torch.promote_types(tensors[0].dtype, torch.float32))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weight: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        saved = ctx.saved_tensors  # once: torch.utils.checkpoint unpacks no tensor twice
        ctx.chunk.weight, ctx.chunk.walk = weight, current_walk()
        if not saved:
            return (None, None, None, *(None for _ in ctx.dtypes))
        parts = ctx.layout.split(saved[0] * weight)
        return (None, None, None, *(p.to(d) for p, d in zip(parts, ctx.dtypes, strict=True)))


def _refuse_non_finite(target: Tensor, size: Tensor) -> None:
    # A finite target may have an infinite norm, so that only says where to look.
    if not math.isfinite(size.item()) and not target.isfinite().all():
        what = "the error that came back for the state"
        raise refusal(target, what, "Nothing was fitted to it.")
