"""How a run ends for a stage, whoever dies meanwhile."""

from __future__ import annotations

from synthgrad.distributed.incoming import Incoming
from synthgrad.distributed.link import Frame, Link
from synthgrad.distributed.outgoing import Outgoing
from synthgrad.distributed.place import Place
from synthgrad.distributed.schema import Kind


class Ending:
    """The last words of a stage to its neighbours.

    The first stage sends the final evaluation, and END with the number of its frames. A stage that
    got all of them over one link passes END on, waits until those above are through, writes its
    last checkpoint and says DONE. Then it stays until the one below says DONE as well: before that
    one has written its own checkpoint it may die, and have to say END again.

    Args:
        place: the stage's.
        outgoing: to the stage above; None for the last.
        incoming: from the stage below; None for the first.
    """

    def __init__(self, place: Place, outgoing: Outgoing | None, incoming: Incoming | None) -> None:
        self._place, self._outgoing, self._incoming = place, outgoing, incoming
        self._link: Link | None = None
        self._came = 0

    def note(self, frame: Frame) -> None:
        """Counts a frame of the final evaluation, which may be sent more than once."""
        if frame.first or frame.link is not self._link:
            self._link, self._came = frame.link, 0
        self._came += 1

    def is_whole(self, end: Frame) -> bool:
        """Whether all of the final evaluation came over the link that END came over."""
        return end.rows == (self._came if end.link is self._link else 0)

    def reach(self, step: int, count: int) -> bool:
        """Says END above, and waits until the stages there are through.

        Args:
            step: of this stage.
            count: frames of the final evaluation.

        Returns:
            Whether they are; if not, all has to be sent again.

        Raises:
            PeerError: they did not come, or took longer than the patience.
        """
        outgoing = self._outgoing
        if outgoing is None:
            return True
        assert outgoing.edge is not None
        generation = outgoing.edge.generation
        whole = outgoing.pass_up(Frame(Kind.END, step, count), must=True)
        return whole and outgoing.edge.generation == generation and outgoing.await_done()

    def send_again(self, incoming: Incoming) -> None:
        """Has the stage below send the end again."""
        edge = incoming.edge
        edge.reset()
        self._place.pause(lambda: not edge.up)

    def farewell(self, *, restored: bool) -> None:
        """Once the last checkpoint is written: says DONE to both sides, and stays while needed.

        That is until the stage below has said DONE, or for as long as it is waited for.

        Args:
            restored: whether an earlier process of this stage got so far; then the others may
                have left already.
        """
        options = self._place.options
        above = None if self._outgoing is None else self._outgoing.edge
        incoming = self._incoming
        if not restored and incoming is not None:
            incoming.edge.send(Frame(Kind.DONE))
        told, left, waited = above is None, incoming is None, 0.0
        while not self._place.stopping:
            told = told or (above is not None and above.send(Frame(Kind.DONE)))
            if incoming is not None and incoming.edge.inbox:
                waited = 0.0
                left = self._has_left(incoming) or left
            present = any(e.up for e in (above, incoming and incoming.edge) if e is not None)
            # One that is needed no more, or perhaps no more, need not be there at all.
            needed = present or not (left or restored)
            if (told and left) or waited > (options.patience if needed else options.timeout):
                return
            waited += self._place.pause(
                lambda told=told: bool(
                    (incoming and incoming.edge.inbox) or (above and above.up and not told)
                )
            )

    def _has_left(self, incoming: Incoming) -> bool:
        """Answers what came from below; says whether that stage needs this one no more."""
        while (frame := incoming.poll()) is not None:
            if frame.kind == Kind.DONE:
                return True
            if frame.kind == Kind.END:
                incoming.edge.send(Frame(Kind.DONE))
            elif frame.tensors:  # sent again by one that was restarted; it has been used
                incoming.answer(frame, None)
        return False
