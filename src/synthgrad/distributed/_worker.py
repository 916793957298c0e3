"""The loop of a stage."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from synthgrad import checkpoint
from synthgrad.distributed._evaluation import Tally, frames
from synthgrad.distributed._learner import Learner
from synthgrad.distributed._place import Place
from synthgrad.distributed._ports import Incoming, Outgoing
from synthgrad.distributed._shutdown import Ending
from synthgrad.distributed._status import Counters
from synthgrad.distributed.protocol import Frame, Kind, Schema
from synthgrad.errors import SynthgradError

Batches = Callable[[int], tuple[Tensor, Tensor]]
log = logging.getLogger("synthgrad.distributed")
_FIRST_SAVE = 0.5
"""Seconds after which a process saves for the first time, once there is anything new."""


@dataclass(frozen=True)
class Evaluation:
    """How the joined network is evaluated (:class:`synthgrad.distributed.Stage`)."""

    batches: Callable[[], Iterable[tuple[Tensor, Tensor]]] | None
    every: int
    metric: Callable[[Any, Tensor], Tensor] | None
    on_result: Callable[[int, dict[str, float]], None] | None


class Worker:
    """Does a stage's work, one frame after the other.

    Args:
        place: where the stage stands.
        learner: what it computes.
        batches: where the first stage's input comes from.
        evaluation: how the joined network is evaluated.
        before_step: called before each update.
    """

    def __init__(
        self,
        place: Place,
        learner: Learner,
        batches: Batches | None,
        evaluation: Evaluation,
        before_step: Callable[[int], None] | None,
    ) -> None:
        self.place, self.learner = place, learner
        place.saves = self._save_if_due
        self.step = 0
        self.state = "starting"
        self.counters = Counters()
        self.outgoing: Outgoing | None = None
        self.incoming: Incoming | None = None
        self.folder = place.options.stage_folder(place.index)
        self._batches, self._before_step = batches, before_step
        self._evaluation = evaluation
        self._evaluated = 0
        self._tally = Tally(evaluation.metric)
        self._save_at = math.inf
        self._killed = False
        self._saved = self._done()
        self._through = -1  # the steps of the run that an earlier process brought to its end

    def run(self, steps: int, *, resume: bool) -> None:
        """Does everything; afterwards ``state`` is "finished" or "stopped"."""
        place = self.place
        schemas = self._restore() if resume else {}
        if not resume and self.folder is not None:
            self._begin_anew(self.folder)
        self._saved = self._done()
        if not place.stopping:
            # Early, so that a stage that is killed soon and often gets further all the same.
            self._save_at = time.monotonic() + min(_FIRST_SAVE, place.options.checkpoint_every)
        self.learner.segment.train()
        if place.index < place.stages - 1:
            self.outgoing = Outgoing(
                place,
                place.index + 1,
                self.learner,
                self.counters,
                schemas.get("above"),
                restarted=self._killed,
            )
        if place.index:
            self.incoming = Incoming(
                place, place.index - 1, self.learner, self.counters, schemas.get("below")
            )
        self._ending = Ending(place, self.outgoing, self.incoming)
        self._steps = steps
        restored, ended = self._through == steps, "finished"
        if not restored:
            self.state = "training"
            ended = self._loop()
            self._save(ended=ended)
        self.state = ended
        if ended == "finished":
            self._ending.farewell(restored=restored)

    def stop(self) -> None:
        """Asks :meth:`run` to end soon; what is there now is saved first, come what may."""
        self._save_at = 0.0
        if self.place.stop_at is None:
            self.place.stop_at = time.monotonic() + self.place.options.timeout

    def close(self) -> None:
        """Says goodbye to the neighbours."""
        for end in (self.incoming, self.outgoing):
            if end is not None:
                end.close()

    def train(self, frame: Frame, synthetic: Tensor | None = None) -> None:
        """One step on a message, on a batch, or on what stands for a message."""
        if self._before_step is not None:
            self._before_step(frame.step)
        h, y = frame.tensors
        h = h if synthetic is None else synthetic
        if self.incoming is not None:
            h = h.detach().requires_grad_()
        outgoing = self.outgoing
        message = Frame(Kind.TRAIN, frame.step, len(y))
        offered = False
        with self.learner.step():
            started = time.monotonic()
            output = self.learner.forward(h, y)
            spent = time.monotonic() - started
            # At once, if there is room: the next stage need not wait for our update.
            if outgoing is not None:
                message.tensors = (output.detach(), y)
                offered = outgoing.offer(message)
            started = time.monotonic()
            loss, sent = self.learner.backward(output, y)
            spent += time.monotonic() - started
        self.counters.busy += spent
        self.counters.updates += 1
        self.step = frame.step + 1
        if loss is not None:
            self._tally.add_loss(loss)
        if self.incoming is not None:
            self.incoming.answer(frame, h.grad, h)
        if outgoing is not None:
            outgoing.took(spent)
            if offered or outgoing.pass_up(message):
                assert sent is not None
                outgoing.expect(message, sent)
                if self.place.options.synchronous:
                    outgoing.await_target()

    def evaluate(self, frame: Frame) -> bool:
        """Passes a frame of an evaluation on, or counts it; says whether it got there."""
        h, y = frame.tensors
        output = self.learner.evaluate(h)
        if frame.final:
            self._ending.note(frame)
        passed = True
        if self.outgoing is not None:
            up = replace(frame, tensors=(output, y), generation=0)
            passed = self.outgoing.pass_up(up, must=frame.final)
        else:
            self._tally.add(output, y, frame)
            if frame.last:
                self._report(frame.step)
        if self.incoming is not None:
            self.incoming.answer(frame, None)
        return passed

    def _loop(self) -> str:
        while True:
            self._collect()
            ended = self._first() if self.incoming is None else self._later(self.incoming)
            if ended == "stopped" and self.outgoing is not None:
                self.outgoing.drain()
            if ended:
                return ended

    def _first(self) -> str:
        """One turn of the first stage."""
        if self.place.stopping:
            return "stopped"
        if self.step >= self._steps:
            return self._finish_first()
        every = self._evaluation.every
        if every and self.step % every == 0 and self.step > self._evaluated:
            self._evaluated = self.step
            for frame in self._evaluation_frames(final=False):
                self.evaluate(frame)
        self.train(Frame(Kind.TRAIN, self.step, tensors=self._batch(self.step)))
        return ""

    def _later(self, incoming: Incoming) -> str:
        """One turn of any other stage."""
        predicts = self.learner.inputs is not None and self.counters.updates < self._steps
        if predicts:
            if self.place.stopping:
                return "stopped"
            frame = incoming.poll()
        else:
            outgoing = self.outgoing
            frame = incoming.next(self._collect, lambda: outgoing is not None and outgoing.waiting)
            if frame is None:
                return "stopped"
        # What ends the run has to wait until this stage has made its own steps.
        ends = frame is not None and (frame.final or frame.kind == Kind.END)
        if predicts and (frame is None or ends):
            if frame is not None:
                incoming.put_back(frame)
            self._train_on_prediction()
        elif frame is not None and frame.kind == Kind.TRAIN:
            self._train_on(frame)
        elif frame is not None and frame.kind == Kind.EVAL:
            self.evaluate(frame)
        elif frame is not None and frame.kind == Kind.STOP and self.place.stopping:
            return "stopped"
        elif frame is not None and frame.kind == Kind.END:
            return self._finish(incoming, frame)
        return ""

    def _train_on(self, frame: Frame) -> None:
        if self.learner.inputs is not None:
            x, y = self._batch(frame.step)
            self.learner.fit_inputs(x, y, frame.tensors[0])
        self.train(frame)

    def _train_on_prediction(self) -> None:
        x, y = self._batch(self.step)
        predicted = self.learner.predict(x, y)
        self.counters.synthetic_inputs += 1
        self.train(Frame(Kind.TRAIN, self.step, tensors=(predicted, y)))

    def _finish_first(self) -> str:
        self._save_if_new()  # whoever is started again evaluates what is evaluated here
        while True:
            count = 0
            for frame in self._evaluation_frames(final=True):
                count += 1
                if not self.evaluate(frame):
                    return "stopped"
            if self._ending.reach(self.step, count):
                return "finished"
            if self.place.stopping:
                return "stopped"

    def _finish(self, incoming: Incoming, end: Frame) -> str:
        if self._ending.is_whole(end):
            if self.outgoing is not None:
                self._save_if_new()
            if self._ending.reach(end.step, end.rows):
                return "finished"
        if not self.place.stopping:  # a stage was lost before it was through
            incoming.begin_anew()
        return ""

    def _collect(self) -> None:
        if self.outgoing is not None:
            self.outgoing.collect()
        self._save_if_due()

    def _save_if_due(self) -> None:
        if time.monotonic() > self._save_at:
            self._save_if_new()

    def _save_if_new(self) -> None:
        if self._done() != self._saved:
            self._save()

    def _done(self) -> tuple[int, int, int]:
        """What a checkpoint would be worth writing for."""
        return self.step, self.counters.updates, self.counters.targets

    def _report(self, step: int) -> None:
        values = self._tally.take()
        self.counters.result = {"step": step, **values}
        if self._evaluation.on_result is not None:
            self._evaluation.on_result(step, values)

    def _batch(self, step: int) -> tuple[Tensor, Tensor]:
        assert self._batches is not None
        x, y = self._batches(step)
        return x.to(self.learner.device), y.to(self.learner.device)

    def _evaluation_frames(self, *, final: bool) -> Iterable[Frame]:
        if self._evaluation.batches is None:
            return ()
        size = len(self._batch(self.step)[1])
        return frames(self._evaluation.batches(), size, self.step, final=final)

    def _save(self, *, ended: str = "") -> None:
        if self.folder is None:
            return
        ends = {"above": self.outgoing, "below": self.incoming}
        schemas = {name: end.schema.to_json() for name, end in ends.items() if end and end.schema}
        state = {"learner": self.learner.state_dict(), "step": self.step, "schemas": schemas}
        state |= {"counters": asdict(self.counters), "evaluated": self._evaluated}
        state |= {"ended": ended, "through": self._steps if ended == "finished" else -1}
        try:
            checkpoint.save(self.folder, self.step, state)
        except OSError as error:
            raise SynthgradError(
                f"no checkpoint can be written to {self.folder}: {error}"
            ) from error
        self._saved = self._done()
        self._save_at = time.monotonic() + self.place.options.checkpoint_every

    def _begin_anew(self, folder: Path) -> None:
        """Or else a restart might go on with the run that was here before."""
        earlier = list(folder.glob("step-*.pt"))
        if earlier:
            self._save()
        for path in earlier:
            path.unlink(missing_ok=True)

    def _restore(self) -> dict[str, Schema]:
        state = None if self.folder is None else checkpoint.load(self.folder)
        if state is None:
            return {}
        self.learner.load_state_dict(state["learner"])
        self.step, self._evaluated = state["step"], state["evaluated"]
        self._killed = not state["ended"]
        self._through = state.get("through", -1)
        self.counters = Counters(**state["counters"])
        log.info("going on at step %d", self.step)
        return {name: Schema.from_json(text) for name, text in state["schemas"].items()}
