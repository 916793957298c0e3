"""How a run ends for a stage, whoever dies meanwhile."""

from __future__ import annotations

from synthgrad.distributed._place import Place
from synthgrad.distributed._ports import Incoming, Outgoing
from synthgrad.distributed.protocol import Frame, Kind


class Ending:
    """The last words of a stage to its neighbours.

    The first stage sends the final evaluation, and END with the number of its frames. A stage that
    got all of them in one generation passes END on, waits until those above are through, writes its
    last checkpoint and says DONE. Then it stays until the one below says DONE as well: before that
    one has written its own checkpoint it may die, and have to say END again.

    Args:
        place: the stage's.
        outgoing: to the stage above; None for the last.
        incoming: from the stage below; None for the first.
    """

    def __init__(self, place: Place, outgoing: Outgoing | None, incoming: Incoming | None) -> None:
        self._place, self._outgoing, self._incoming = place, outgoing, incoming
        self._generation = -1
        self._came = 0

    def note(self, frame: Frame) -> None:
        """Counts a frame of the final evaluation, which may be sent more than once."""
        if frame.first or frame.generation != self._generation:
            self._generation, self._came = frame.generation, 0
        self._came += 1

    def is_whole(self, end: Frame) -> bool:
        """Whether all of the final evaluation came in the generation in which END came."""
        return end.rows == (self._came if end.generation == self._generation else 0)

    def reach(self, step: int, count: int) -> bool:
        """Says END above, and waits until the stages there are through (:meth:`Outgoing.end`)."""
        return self._outgoing is None or self._outgoing.end(step, count)

    def farewell(self, *, restored: bool) -> None:
        """Once the last checkpoint is written: says DONE to both sides, and stays while needed.

        That is until the stage below has said DONE, or for as long as it is waited for.

        Args:
            restored: whether an earlier process of this stage got so far; then the others may
                have left already.
        """
        options = self._place.options
        above, below = self._outgoing, self._incoming
        if not restored and below is not None:
            below.say_done()
        told, left, waited = above is None, below is None, 0.0
        while not self._place.stopping:
            told = told or (above is not None and above.say_done())
            if below is not None and below.waiting:
                waited = 0.0
                left = self._has_left(below) or left
            present = (above is not None and above.up) or (below is not None and below.edge.up)
            # One that is needed no more, or perhaps no more, need not be there at all.
            needed = present or not (left or restored)
            if (told and left) or waited > (options.patience if needed else options.timeout):
                return
            waited += self._place.pause(
                lambda told=told: bool(
                    (below is not None and below.waiting)
                    or (above is not None and above.up and not told)
                )
            )

    def _has_left(self, below: Incoming) -> bool:
        """Answers what came from below; says whether that stage needs this one no more."""
        while (frame := below.poll()) is not None:
            if frame.kind == Kind.DONE:
                return True
            if frame.kind == Kind.END:
                below.say_done()
            elif frame.tensors:  # sent again by one that was restarted; it has been used
                below.answer(frame, None)
        return False
