"""One process's part of a pipeline: it never waits for the stages after it, but for a window."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

from torch import Tensor, nn

from synthgrad import _checks
from synthgrad._optimizers import MakeOptimizer
from synthgrad.distributed._learner import Learner, LossFn
from synthgrad.distributed._place import PeerError, Place
from synthgrad.distributed._status import Publisher
from synthgrad.distributed._worker import Batches, Evaluation, Worker
from synthgrad.distributed.options import Options
from synthgrad.distributed.transport import Gloo
from synthgrad.distributed.transport.base import Transport
from synthgrad.errors import ArgumentError
from synthgrad.feedback import Feedback, Regression
from synthgrad.interface import Interface


class Stage:
    """One segment of a network, trained in this process, between two others.

    It takes a message from the stage below (the first: a batch), runs its segment, sends its own
    message up, and updates at once with the error that its feedback model predicts (the last: with
    that of the loss). The error at its input goes down, as the target of the stage below. Targets
    from above fit its feedback model whenever they come. A stage whose successor is gone goes on,
    and one whose predecessor is gone waits.

    Args:
        segment: the modules of this stage. The interface behind it is not among them; those inside
            it work in line.
        index: which stage this is, counted from 0.
        stages: how many there are.
        store: where they meet, "host:port" (:func:`serve`); or a transport of your own, which
            connects them (:class:`synthgrad.distributed.transport.base.Transport`).
        optimizer: makes an optimiser from parameters, for example
            ``functools.partial(torch.optim.Adam, lr=1e-3)``.
        feedback: predicts the per-example error of the message; for all but the last stage. Or an
            :class:`synthgrad.Interface` with such a model, all of which counts but its ``inputs``:
            its name in errors, reduction, batch_dim, check_finite. Its ``lambda_`` has to be 0.
        loss_fn: ``loss_fn(output, y)``, a mean over the batch or the loss of each example; for
            the last stage.
        feedback_optimizer: the same as ``optimizer`` for feedback and synthetic input models,
            where they want another.
        inputs: predicts the message from the batch, so that this stage does not wait for the one
            below either (:mod:`synthgrad.inputs`).
        input_optimizer: the same as ``optimizer`` for ``inputs``, where it wants yet another: it
            has to keep up with what the stage below sends
            (:class:`synthgrad.schedule.FullyUnlocked`).
        batches: ``batches(step)`` returns ``x`` and the labels ``y``, the same for the same step
            at any time; for the first stage and for those with ``inputs``. The labels travel with
            the message, and are the context of the feedback models.
        before_step: called with the step before each update, as for learning rates.
        evaluation: returns the batches that the first stage sends through for evaluation; they
            may be smaller than those of training, and not larger.
        evaluate_every: steps between evaluations; there is one at the end in any case.
        metric: ``metric(output, y)`` gives a number for each example; the last stage reports
            their mean.
        on_result: called by the last stage with the step and ``{"train_loss": …, "metric": …}``
            after each evaluation.
        options: the same for all stages.

    Attributes:
        worker: does the work, and holds the ``step`` and the ``counters``.

    Raises:
        ArgumentError: something is missing, or out of range.
        LockingError: the interface mixes in the real error, for which a stage does not wait.
    """

    def __init__(
        self,
        segment: nn.Module,
        *,
        index: int,
        stages: int,
        store: str | Transport,
        optimizer: MakeOptimizer,
        feedback: Feedback | Interface | None = None,
        loss_fn: LossFn | None = None,
        feedback_optimizer: MakeOptimizer | None = None,
        inputs: Regression | None = None,
        input_optimizer: MakeOptimizer | None = None,
        batches: Batches | None = None,
        before_step: Callable[[int], None] | None = None,
        evaluation: Callable[[], Iterable[tuple[Tensor, Tensor]]] | None = None,
        evaluate_every: int = 0,
        metric: Callable[[Any, Tensor], Tensor] | None = None,
        on_result: Callable[[int, dict[str, float]], None] | None = None,
        options: Options | None = None,
    ) -> None:
        stages, index = _checks.integer("stages", stages, 1), _checks.integer("index", index)
        _checks.functions(
            batches=batches,
            loss_fn=loss_fn,
            before_step=before_step,
            evaluation=evaluation,
            metric=metric,
            on_result=on_result,
        )
        evaluate_every = _checks.integer("evaluate_every", evaluate_every, 0)
        if options is not None:
            _checks.of_kind("options", options, Options, "a synthgrad.distributed.Options")
        if not 0 <= index < stages:
            raise ArgumentError(f"index must lie in [0, {stages}) for {stages} stages, got {index}")
        if inputs is not None and index == 0:
            raise ArgumentError("the first stage has its input; it needs no model of it")
        if batches is None and (index == 0 or inputs is not None):
            raise ArgumentError(f"stage {index} needs batches(step), got None")
        if (index == stages - 1) != (loss_fn is not None):
            raise ArgumentError(
                f"stage {index} of {stages} {'needs a' if loss_fn is None else 'takes no'} loss_fn"
            )
        options = Options() if options is None else options
        transport = store
        if not isinstance(transport, Transport):
            transport = Gloo(_checks.text("store", store), options)
        learner = Learner(
            segment,
            optimizer,
            feedback=feedback,
            loss_fn=loss_fn,
            feedback_optimizer=feedback_optimizer,
            inputs=inputs,
            input_optimizer=input_optimizer,
            label=f"stage {index}",
            check_finite=options.check_finite,
        )
        self.worker = Worker(
            Place(index, stages, transport, options),
            learner,
            batches,
            Evaluation(evaluation, evaluate_every, metric, on_result),
            before_step,
        )

    def run(self, steps: int, *, resume: bool = False) -> dict[str, Any]:
        """Trains until the first stage has sent that many batches and all have gone through.

        Args:
            steps: the same for all stages.
            resume: begin with the newest whole checkpoint in the options' folder, if there is one.

        Returns:
            :meth:`status`; its ``state`` is "finished", or "stopped" after :meth:`stop`.

        Raises:
            SchemaError: a neighbour does not belong to the same pipeline.
            PeerError: a stage that is needed did not come within ``options.patience``.
            NonFiniteError: a batch, message, error, loss or gradient holds NaN or infinity; no
                weight, statistic or optimiser has taken it in (``options.check_finite``).
        """
        worker = self.worker
        path = None if worker.folder is None else worker.folder / "status.json"
        with Publisher(path, self.status):
            try:
                self._run(steps, resume)
            except BaseException as error:
                worker.state = f"failed: {type(error).__name__}: {error}"
                raise
            finally:
                worker.close()
        return self.status()

    def _run(self, steps: int, resume: bool) -> None:
        try:
            self.worker.run(steps, resume=resume)
        except PeerError as error:
            trouble = self.worker.place.transport.trouble()
            if not trouble:
                raise
            raise PeerError(f"{error}; {trouble}") from None

    def stop(self) -> None:
        """Asks :meth:`run` to end soon, with a checkpoint; may be called by a signal handler.

        What is on its way is used first, for at most ``options.timeout``.
        """
        self.worker.stop()

    def status(self) -> dict[str, Any]:
        """Where this stage is; the same as ``status.json`` in its folder, twice a second.

        Beside the fields of :class:`synthgrad.distributed._status.Counters`: ``stage``, ``pid``,
        ``state``, ``step``, the ``window`` and the ``round_trip`` (seconds) to the next stage,
        how often the edges below and above were formed (``generation_below``,
        ``generation_above``), and the ``time`` (seconds since 1970).
        """
        worker = self.worker
        counters = worker.counters
        values = asdict(counters) | {"target_age": counters.target_age / max(1, counters.targets)}
        above = None if worker.outgoing is None else worker.outgoing.edge
        below = None if worker.incoming is None else worker.incoming.edge
        return {
            "stage": worker.place.index,
            "pid": os.getpid(),
            "state": worker.state,
            "step": worker.step,
            **values,
            "window": None if worker.outgoing is None else worker.outgoing.window,
            "round_trip": None if above is None else above.round_trip,
            "generation_above": 0 if above is None else above.generation,
            "generation_below": 0 if below is None else below.generation,
            "time": time.time(),
        }
