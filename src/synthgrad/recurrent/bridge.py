"""The bridge over the boundary of a truncated unroll."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from synthgrad import _guards
from synthgrad._graph import current_walk
from synthgrad._nest import describe, floating, with_floating
from synthgrad.context import current_context
from synthgrad.errors import LockingError, NonFiniteError
from synthgrad.feedback import Feedback
from synthgrad.functional import check_lambda, per_loss
from synthgrad.recurrent import arguments
from synthgrad.recurrent.arguments import naming
from synthgrad.recurrent.boundary import Chunk, consume
from synthgrad.recurrent.configured import Configured
from synthgrad.recurrent.episodes import mask_of, refresh
from synthgrad.recurrent.fit import Fit, predict, wide
from synthgrad.recurrent.layout import layout
from synthgrad.recurrent.opened import Opened
from synthgrad.recurrent.pending import Waiting


class RecurrentInterface(Configured):
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
            T steps later (:mod:`synthgrad.recurrent.ahead`); :meth:`end` then wants the
            messages of all ``steps``. Its error reaches the core through ``last_core`` only.
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
        super().__init__(
            feedback,
            scale,
            auxiliary,
            last_core,
            feedback_into_core,
            reduction,
            batch_dim,
            name,
            check_finite,
        )
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
        with naming(self):
            tensors = [tensor.detach() for tensor in arguments.check_state(state)]
            self.record.bypassed = not self.training and torch.is_grad_enabled()
            if not self._is_learning():
                return refresh(with_floating(state, tensors), ended, fresh, self.batch_dim)
            self._refuse_recomputation()
            if self._open is not None:
                raise LockingError(
                    "begin() was called twice without end() between; expected begin(), T steps, "
                    "end(). To give the open chunk up, call reset()"
                )
            opened = Opened(self, describe(state))
            tensors = [tensor.requires_grad_() for tensor in tensors]
            waiting = self._pending.look()
            if waiting is not None:
                arguments.check_same(state, waiting.state, "the chunk before ended with")
                tensors = opened.answer(waiting, tensors, ended)
            state = refresh(with_floating(state, tensors), ended, fresh, self.batch_dim)
        for tensor in floating(state):
            tensor.retain_grad()
        self._open = opened
        return state

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
        with naming(self):
            arguments.check_message(message)
            if not self._is_learning():
                return message.new_zeros(())
            opened, tensors = self._opened("end", state)
            if not any(tensor.requires_grad for tensor in tensors):
                raise LockingError(
                    "no tensor of the state given to end() requires grad, so no error can come "
                    "back to it; expected the core's state, not a detached one"
                )
            _guards.note_run(self.record, next(t for t in tensors if t.requires_grad))
            arguments.check_inputs(inputs, self.last_core)
            messages = arguments.check_steps(message, steps, self.auxiliary)
            mask = mask_of(ended, len(message), message.device)
            context = current_context() if context is None else context
            arranged = layout(tensors, len(message), self.batch_dim)
            with torch.no_grad():
                predicted = predict(self.feedback, message.detach(), context, arranged.width)
            torch.clear_autocast_cache()  # torch 2.6 would fit weights cast here, without a graph
            predicted = wide(predicted)
            self._refuse_non_finite(predicted, message)
            error = None
            if self.scale != 0 and ended is not True:
                error = per_loss(predicted, self.reduction) * self.scale
                error = error if mask is None else error.masked_fill(mask.unsqueeze(1), 0)
            scalar = consume(tensors, opened.chunk, arranged, error)
            if (loss := opened.ahead(messages, context, predicted)) is not None:
                scalar = scalar + (loss - loss.detach())
        opened.chunk.has_end = True
        self._last = opened.chunk
        self._pending.keep(Waiting(messages, context, inputs, mask, opened.state))
        self._open = None
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
        with naming(self):
            arguments.check_message(message)
            check_lambda(lambda_)
            if not self._is_learning():
                return state
            opened, tensors = self._opened("between", state)
            fit = Fit(
                self,
                opened.chunk,
                layout(tensors, len(message), self.batch_dim),
                message if self.feedback_into_core else message.detach(),
                current_context() if context is None else context,
                lambda_=lambda_,
                kind="inside",
                expectation=_guards.expect(cast(Any, self)),
            )
        return with_floating(state, fit.pass_on(tensors))

    def count_step(self) -> None:
        """An optimiser of the feedback model steps; nothing here depends on how often."""

    def sender(self) -> None:
        """It cuts no one module's output."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        """In a copy, or in another process, optimisers look at it as well."""
        super().__setstate__(state)
        self.record = _guards.watch(self)

    def reset(self) -> None:
        """Forgets the last chunk's predictions and any open chunk; what was learned stays."""
        self._pending.drop()
        self._open = self._last = None

    def _is_learning(self) -> bool:
        return self.training and torch.is_grad_enabled()

    def _refuse_non_finite(self, predicted: Tensor, message: Tensor) -> None:
        """Gives a chunk up whose prediction is not finite; what waits for it goes on waiting."""
        if not self.check_finite or predicted.device.type != "cpu":
            return
        if not math.isfinite(predicted.sum().item()) and not predicted.isfinite().all():
            self._open = None
            raise NonFiniteError(
                f"{self.label}: the prediction from a message of shape {tuple(message.shape)} has "
                f"{int((~predicted.isfinite()).sum())} non-finite values (NaN or infinity), the "
                f"message itself {int((~message.isfinite()).sum())}; expected finite ones. The "
                "chunk is given up, and nothing of it is kept: begin() goes on from the one before."
            )

    def _refuse_recomputation(self) -> None:
        """Torch's checkpoint runs a chunk again in its own backward pass, after its end()."""
        walk, last = current_walk(), self._last
        if walk is not None and last is not None and last.walk in (None, walk):
            raise LockingError(
                "begin() was called in the backward pass of a chunk that has ended already, as "
                "torch.utils.checkpoint does with use_reentrant=False around begin() and end(). "
                "What that chunk began with is gone; checkpoint the core alone, or with "
                "use_reentrant=True"
            )

    def _opened(self, call: str, state: Any) -> tuple[Opened, list[Tensor]]:
        """The open chunk, and the tensors of a state that belongs to it."""
        if self._open is None:
            raise LockingError(f"{call}() was called without begin(); expected begin(), T steps")
        tensors = arguments.check_state(state)
        arguments.check_same(state, self._open.state, "the chunk began with")
        return self._open, tensors
