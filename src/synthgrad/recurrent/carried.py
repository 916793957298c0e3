"""What a bridge carries from chunk to chunk; it is moved and saved like parameters."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import chain
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from synthgrad._extra_state import packed, unpacked
from synthgrad.errors import SynthgradWarning
from synthgrad.recurrent.explained import Explained
from synthgrad.recurrent.pending import Pending

if TYPE_CHECKING:
    from synthgrad.recurrent.opened import Opened


class Carried(nn.Module):
    """A module with pending predictions and with counts of how good the former ones were.

    They are no buffers: their shapes come with the first message, and a data-parallel wrapper would
    overwrite each rank's with those of the first.

    Attributes:
        explained: the explained variance of each kind of prediction, an :class:`Explained` each.
    """

    _open: Opened | None = None

    def __init__(self) -> None:
        super().__init__()
        self.explained = {kind: Explained() for kind in ("boundary", "inside", "auxiliary")}
        self._pending = Pending()

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

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        self._pending.apply(fn)  # .to(), .double() and the like all come through here
        return super()._apply(fn, recurse)
