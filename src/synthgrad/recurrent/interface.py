"""The interface over the boundary of a truncated unroll."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from synthgrad import _checks, _guards
from synthgrad._extra_state import packed, unpacked
from synthgrad._finite import is_finite
from synthgrad._prediction import Prediction
from synthgrad.context import current_context
from synthgrad.errors import (
    ArgumentError,
    LockingError,
    NonFiniteError,
    ShapeError,
    SynthgradWarning,
    about,
)
from synthgrad.feedback import Feedback
from synthgrad.functional import check_lambda, per_loss
from synthgrad.recurrent import _auxiliary
from synthgrad.recurrent._chunk import Chunk, Crossing, consume, predict_rows
from synthgrad.recurrent._memory import Pending, Waiting, check_inputs, check_last_core
from synthgrad.recurrent._state import BatchDim, State, check_batch_dim, either, mask_of
from synthgrad.recurrent.explained import Explained


class RecurrentInterface(nn.Module):
    r"""Bridges the boundaries of truncated BPTT with a synthetic gradient (2.1, fig. 2 and 10).

    A core runs T steps at a time. Beyond a chunk's end the error of the state :math:`h` is not
    known, and truncated BPTT takes it to be zero. Here it is ``scale`` times
    :math:`\hat\delta = M(m)`, predicted from the core's message m (its output at the last step).
    M is fitted when the next chunk's backward pass brings the real error to that chunk's first
    state, with

    .. math:: \frac1B \sum_b \lVert M(m_b) - \delta_b \rVert_2^2, \qquad
              \delta = \frac{\partial}{\partial h} \sum_{\tau=1}^{T} l_\tau
                       + s\,\hat\delta' \frac{\partial h'}{\partial h},

    the losses of the next chunk and what that chunk in its turn consumed at its end h': the
    bootstrap. So what is predicted, and compared, is the error that arrives, unscaled; ``scale``
    (s) applies "when consumed by the model" (D.2), and through the bootstrap it discounts each
    further boundary once more. A loop stays the user's own::

        state = bridge.begin(state)
        output, state = lstm(x, state)
        loss = task(output) + bridge.end(state, output[-1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    Everything is part of the one graph, so the one ``loss.backward()`` gives every gradient, M's
    included. Since the optimiser changes M between prediction and target, :meth:`begin` predicts
    again, from the kept message with the present parameters. In ``eval()`` or without grad the
    interface only cuts the state from its graph (and gives rows that ended their fresh one), and
    forgets nothing.

    A chunk that is never ended consumes nothing and still fits M. But what its loss was multiplied
    by (a loss scaler, an average) is told by :meth:`end` alone: where that is not 1, the last chunk
    of all wants ``end(state, message, ended=True)``, or M's gradients are on the wrong scale.

    Args:
        feedback: M, from messages ``"batch features"`` to the per-example error of the whole state,
            ``"batch width"``: the state's tensors flattened per example and put side by side in the
            order of the nest. ``MLP(units, (units,), out_features=2 * units, batch_norm=False)`` is
            the paper's for one LSTM layer.
        scale: what the synthetic error is multiplied by where it is consumed; may be changed at
            any time. At 0 this is truncated BPTT, while M is fitted already.
        auxiliary: A, a model of the same widths as M, which predicts at each step what M will say
            T steps later (section 2.1, fig. 2 b); :meth:`end` then wants the messages of all
            ``steps``. Its error reaches the core through ``last_core`` only.
        last_core: computes the message of a chunk's last step again, from the ``inputs`` given to
            :meth:`end`: one more core, T + 1 instead of T, and no second pass (fig. 10). It may
            return the messages of all T steps instead: then the auxiliary error of each reaches
            the core, at the price of a second pass. A bound method of the core's module is best.
        feedback_into_core: whether M's regression error flows into the core, through ``last_core``.
        reduction: how the loss joins a batch. "mean": the per-example error is ``batch`` times
            what autograd carries; "sum": they are the same.
        batch_dim: which dimension of the state's tensors is the batch; one for all, or one each.
            By default the first, or the second of those with three or more dimensions (as in
            ``nn.LSTM``), whichever is as long as the batch.
        name: how errors call this interface.
        check_finite: whether arriving errors are checked for NaN and infinity; only on a CPU, since
            elsewhere it would wait for the device (``explained[...].now`` shows NaN there). False
            beside a loss scaler that looks for overflows itself (``torch.amp.GradScaler``).

    Attributes:
        explained: the explained variance of each kind of prediction, an :class:`Explained` each:
            "boundary", "inside" (:meth:`between`) and "auxiliary".

    Raises:
        ArgumentError: an argument is not of its kind or outside its range.
    """

    def __init__(
        self,
        feedback: Feedback,
        scale: float = 0.1,
        auxiliary: Feedback | None = None,
        *,
        last_core: Callable[..., Tensor] | None = None,
        feedback_into_core: bool = False,
        reduction: str = "mean",
        batch_dim: int | Sequence[int] | None = None,
        name: str | None = None,
        check_finite: bool = True,
    ) -> None:
        super().__init__()
        _check_model("feedback", feedback)
        if auxiliary is not None:
            _check_model("auxiliary", auxiliary)
            _auxiliary.check_regression(auxiliary)
        self.reduction = _checks.word("reduction", reduction, ("mean", "sum"))
        self.name = None if name is None else _checks.text("name", name)
        self.feedback = feedback
        self.auxiliary = auxiliary
        self.scale = scale
        check_last_core(last_core, feedback_into_core, feedback, auxiliary)
        self._last_core = (last_core,)  # in a tuple: the core is no part of this module
        self.feedback_into_core = feedback_into_core
        self.batch_dim: BatchDim = check_batch_dim(batch_dim)
        self.check_finite = _checks.flag("check_finite", check_finite)
        self.explained = {kind: Explained() for kind in ("boundary", "inside", "auxiliary")}
        # What waits is no buffer: its shapes come with the first message, and a data-parallel
        # wrapper would overwrite each rank's with those of the first.
        self._pending = Pending()
        self._open: Chunk | None = None
        self._last: Chunk | None = None
        self.record = _guards.watch(self)

    def begin(self, state: Any, *, ended: Tensor | bool = False, fresh: Any = None) -> Any:
        """Begins a chunk: cuts the state from the chunk before.

        Args:
            state: the core's state, a tensor or a nest of tensors.
            ended: the rows whose episode ended with the chunk before, bool ``"batch"``, or True for
                all. Nothing that follows depends on their state: the target of their last
                prediction is zero.
            fresh: what ``ended`` rows start from, by default the state they have: a number, for
                the floating-point tensors; or a nest like ``state``, whose tensors may broadcast,
                for all tensors. A learned one gets its gradient.

        Returns:
            The state to run the chunk from. Nothing but M lies below it in the graph, and
            its ``grad`` holds the error that arrived, on the scale that autograd carries.

        Raises:
            LockingError: a chunk is open already; or this is the backward pass of one that ended.
            ShapeError: the state is not the one that the chunk before ended with, or has no tensor;
                ``ended`` or ``fresh`` do not fit it.
            ArgumentError: ``fresh`` without ``ended``.
        """
        with about(self._label):
            parsed = State(state, self.batch_dim)
            parsed.exchange([tensor.detach() for tensor in parsed.floating])
            self.record.bypassed = not self.training and torch.is_grad_enabled()
            if not self._is_learning():
                parsed.refresh(ended, fresh)
                return parsed.nest
            if self._last is not None:
                self._last.refuse_second_run()
            if self._open is not None:
                raise LockingError(
                    "begin() was called twice without end() between; expected begin(), T steps, "
                    "end(). To give the open chunk up, call reset()"
                )
            chunk = Chunk(parsed.form)
            for tensor in parsed.floating:
                tensor.requires_grad_()
            waiting = self._pending.look()
            if waiting is not None:
                parsed.expect(waiting.state, "the chunk before ended with")
                self._answer_last(waiting, parsed, chunk, ended)
            parsed.refresh(ended, fresh)
        for tensor in parsed.floating:
            tensor.retain_grad()
        self._open = chunk
        return parsed.nest

    def end(
        self,
        state: Any,
        message: Tensor,
        *,
        context: Any = None,
        ended: Tensor | bool = False,
        steps: Tensor | Sequence[Tensor] | None = None,
        inputs: Any = None,
    ) -> Tensor:
        """Ends a chunk: predicts the error of its last state, and sees to it that it is consumed.

        Args:
            state: the state after the chunk's last step.
            message: what M sees: the core's output at the last step, ``"batch *message"``.
            context: what a conditional M sees besides; by default that of
                :func:`synthgrad.context`.
            ended: the rows whose episode ends here, bool ``"batch"``, or True for all: no error
                comes back to them, and the target of their prediction is zero.
            steps: the messages of all steps, ``"steps batch *message"``, for the auxiliary task;
                ``message`` is the last of them. Without, the task runs at the last step alone.
            inputs: the positional arguments for ``last_core``, a tuple of nests; kept detached.

        Returns:
            A scalar to add to the chunk's loss. Its value is zero; its gradients are those of
            the method. Multiplying the whole loss by a number multiplies every gradient by it.

        Raises:
            LockingError: no chunk is open, or the state does not depend on anything that learns.
            NonFiniteError: what M predicts holds NaN or infinity (on a CPU); the chunk is given up.
            ShapeError: the state differs from what the chunk began with, or M does not suit it.
            ArgumentError: ``inputs`` or ``steps`` are missing, or of no use.
        """
        with about(self._label):
            _check_message(message)
            if not self._is_learning():
                return message.new_zeros(())
            chunk, parsed = self._expect_open("end", state)
            self._note_run(parsed)
            check_inputs(inputs, self.last_core)
            messages = _auxiliary.check_steps(message, steps, self.auxiliary)
            mask = mask_of(ended, len(message), message.device)
            context = current_context() if context is None else context
            layout = parsed.layout(len(message))
            with torch.no_grad():
                predicted = predict_rows(self.feedback, message.detach(), context, layout.width)
            torch.clear_autocast_cache()  # torch 2.6 would fit weights cast here, without a graph
            self._refuse_non_finite(predicted, message)
            error = None
            if self.scale != 0 and ended is not True:
                error = per_loss(predicted, self.reduction) * self.scale
                error = error if mask is None else error.masked_fill(mask.unsqueeze(1), 0)
            scalar = consume(parsed.floating, chunk, layout, error)
            if self.auxiliary is not None:
                scalar = scalar + _auxiliary.zero(
                    self.auxiliary,
                    self.feedback,
                    chunk,
                    messages,
                    context,
                    predicted,
                    self.explained["auxiliary"],
                )
        chunk.has_end = True
        self._last, self._open = chunk, None
        self._pending.keep(Waiting(messages, context, inputs, mask, chunk.form))
        return scalar

    def between(self, state: Any, message: Tensor, lambda_: float, *, context: Any = None) -> Any:
        r"""An interface between two steps of a chunk: BP(λ) over time (supplement A.3).

        .. math:: \bar g_k = \frac{\partial l_k}{\partial h_k}
                  + \lambda_k \bar g_{k+1} \frac{\partial h_{k+1}}{\partial h_k}
                  + (1 - \lambda_k)\, s\, M(m_k)

        M is fitted to what arrives, :math:`\bar g_{k+1} \partial h_{k+1} / \partial h_k`, held
        constant: it estimates the losses from k + 1 on. (A.3 says so in words and prints
        :math:`\bar z_k` with :math:`\partial l_k / \partial h_k` as well; that term is the
        step's own, known at once, and enters at :math:`h_k`, below this interface.) With λ = 1
        between all steps, :meth:`end` alone decides, as in section 2.1; with λ = 0 each step learns
        from its own loss and M, which is what chunks of one step do online.

        Args:
            state: the state after a step.
            message: what M sees of it, ``"batch *message"``.
            lambda_: the weight of the real error, in [0, 1]; at 1 it passes to the last bit.
            context: as for :meth:`end`.

        Returns:
            The same state, for the next step.

        Raises:
            LockingError: no chunk is open.
            ShapeError, ArgumentError: as for :meth:`end`; or ``lambda_`` is outside [0, 1].
        """
        with about(self._label):
            _check_message(message)
            check_lambda(lambda_)
            if not self._is_learning():
                return state
            chunk, parsed = self._expect_open("between", state)
            message = message if self.feedback_into_core else message.detach()
            context = current_context() if context is None else context
            self._cross(parsed, chunk, message, context, kind="inside", lambda_=lambda_)
        return parsed.nest

    def reset(self) -> None:
        """Forgets the last chunk's predictions and any open chunk; what was learned stays."""
        self._pending.drop()
        self._open = self._last = None

    def _answer_last(
        self, waiting: Waiting, state: State, chunk: Chunk, ended: Tensor | bool
    ) -> None:
        """Predicts the last chunk's error again, for the real one will arrive in this chunk."""
        messages = waiting.messages
        if self.last_core is not None:
            messages = waiting.messages_by(self.last_core)
        message = messages[-1] if self.feedback_into_core else waiting.messages[-1]
        chunk.ended = either(waiting.ended, mask_of(ended, len(message), message.device))
        if self.auxiliary is not None:
            chunk.before = (messages, waiting.context)
        self._cross(state, chunk, message, waiting.context, kind="boundary", ended=chunk.ended)

    def _cross(
        self,
        state: State,
        chunk: Chunk,
        message: Tensor,
        context: Any,
        *,
        kind: str,
        ended: Tensor | None = None,
        lambda_: float | None = None,
    ) -> None:
        """Predicts the error of a state, and answers the real one when it comes back for it."""
        layout = state.layout(len(message))
        own = self.feedback.dtype or message.dtype
        dtype = torch.promote_types(torch.promote_types(message.dtype, own), torch.float32)
        record, expectation = self.record, _guards.expect(self)

        def arrived() -> None:
            record.answered = expectation.served = True

        crossing = Crossing(
            Prediction(self.feedback, message, context, self.reduction, dtype, width=layout.width),
            chunk,
            layout,
            self._label,
            self.explained[kind],
            self.reduction,
            self.check_finite,
            arrived,
            ended,
            lambda_,
            self.scale,
        )
        state.exchange(crossing.pass_on(state.floating))

    def _is_learning(self) -> bool:
        return self.training and torch.is_grad_enabled()

    def _expect_open(self, call: str, state: Any) -> tuple[Chunk, State]:
        """The open chunk, and a state that belongs to it."""
        if self._open is None:
            raise LockingError(f"{call}() was called without begin(); expected begin(), T steps")
        parsed = State(state, self.batch_dim)
        parsed.expect(self._open.form, "the chunk began with")
        return self._open, parsed

    def _note_run(self, state: State) -> None:
        learning = [tensor for tensor in state.floating if tensor.requires_grad]
        if not learning:
            raise LockingError(
                "no tensor of the state given to end() requires grad, so no error can come "
                "back to it; expected the core's state, not a detached one"
            )
        _guards.note_run(self.record, learning[0])

    def _refuse_non_finite(self, predicted: Tensor, message: Tensor) -> None:
        """Gives a chunk up whose prediction is not finite; what waits for it goes on waiting."""
        if not self.check_finite or predicted.device.type != "cpu":
            return
        if not is_finite(predicted):
            self._open = None
            raise NonFiniteError(
                f"the prediction from a message of shape {tuple(message.shape)} has "
                f"{int((~predicted.isfinite()).sum())} non-finite values (NaN or infinity), the "
                f"message itself {int((~message.isfinite()).sum())}; expected finite ones. The "
                "chunk is given up, and nothing of it is kept: begin() goes on from the one before."
            )

    @property
    def scale(self) -> float:
        """What the synthetic error is multiplied by where it is consumed.

        Raises:
            ArgumentError: it is set to something else than a finite number of at least 0.
        """
        return self._scale

    @scale.setter
    def scale(self, scale: float) -> None:
        with about(self._label):
            _checks.number("scale", scale, 0)
        self._scale = scale

    @property
    def last_core(self) -> Callable[..., Tensor] | None:
        """Computes the message of a chunk's last step again."""
        return self._last_core[0]

    @property
    def label(self) -> str:
        """How error messages call this interface."""
        return self._label()

    def _label(self) -> str:
        if self.name is not None:
            return f"recurrent interface {self.name!r}"
        return f"recurrent interface {type(self.feedback).__name__}({self.feedback.extra_repr()})"

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        name = "" if self.name is None else f"{self.name!r}, "
        return f"{name}scale={self.scale}, reduction={self.reduction!r}"

    def count_step(self) -> None:
        """An optimiser of the feedback model steps; nothing here depends on how often."""

    def sender(self) -> None:
        """It cuts no one module's output."""

    def carried_state(self) -> dict[str, Any]:
        """A copy of all that the next chunk depends on; plain containers and tensors."""
        return {
            "pending": self._pending.state(),
            "explained": {kind: count.state() for kind, count in self.explained.items()},
        }

    def get_extra_state(self) -> Tensor:
        """:meth:`carried_state` as one tensor (:mod:`synthgrad._extra_state`)."""
        return packed(self.carried_state())

    def set_extra_state(self, state: Any) -> None:
        """Goes on from what :meth:`get_extra_state` returned, on the device of the model.

        A chunk that is open began with something else, and is given up. What an average of several
        states carried is nothing: it warns, and begins afresh.

        Args:
            state: a tensor, or what version 0.1 kept, the dictionary itself.
        """
        self._open = None
        if isinstance(state, Tensor):
            try:
                state = unpacked(state)
            except ValueError as error:
                warnings.warn(
                    f"the state of a recurrent interface cannot be read ({error}), as that of an "
                    "average of several models; it goes on as after reset()",
                    SynthgradWarning,
                    stacklevel=2,
                )
                self._pending.drop()
                return
        device = next((t.device for t in chain(self.parameters(), self.buffers())), None)
        self._pending.restore(state["pending"], device)
        for kind, count in self.explained.items():
            count.restore(state["explained"][kind], device)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """In a copy, or in another process, optimisers look at it as well."""
        super().__setstate__(state)
        self.record = _guards.watch(self)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        self._pending.apply(fn)  # .to(), .double() and the like all come through here
        return super()._apply(fn, recurse)


def _check_message(message: Any) -> None:
    """Refuses what no feedback model can see.

    Raises:
        ShapeError: it is not one floating-point tensor with a batch.
    """
    if not _checks.is_dense(message) or message.ndim < 2:
        raise ShapeError(
            "a message is one dense floating-point tensor (batch, ...), got "
            f"{_checks.came(message)}"
        )


def _check_model(role: str, model: Any) -> None:
    """Refuses a model that cannot predict the error of a state.

    Raises:
        ArgumentError: it is no feedback model, or is fitted to values of the loss.
    """
    if not isinstance(model, Feedback):
        raise ArgumentError(
            f"{role} must be a synthgrad.feedback.Feedback, got {type(model).__name__}"
        )
    if model.fitted_to != "error":
        raise ArgumentError(
            f"{role} must be fitted to errors; {type(model).__name__} is fitted to values of "
            "the loss, and those of the chunks to come do not arrive at a boundary"
        )
