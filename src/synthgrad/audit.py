"""Finds interfaces that were used but that no error ever reached.

Such an interface leaves its sender and its feedback model without a gradient, and a plain training
loop would not notice. The moment of truth is the optimiser's step: if it is about to update a
feedback model whose interface sent messages since the last step and got no error back for any,
it stops before anything is changed.
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any

from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from synthgrad.errors import LockingError

if TYPE_CHECKING:
    from synthgrad.interface import Interface


class Expectation:
    """Messages that one interface sent in one thread since the last step; have any got an error?"""

    __slots__ = ("interface", "served")

    def __init__(self, interface: Interface) -> None:
        self.interface = weakref.ref(interface)
        self.served = False


class _PerThread(threading.local):
    def __init__(self) -> None:
        self.open: dict[int, Expectation] = {}


_expectations = _PerThread()
_hook_lock = threading.Lock()
_hooked = False


def watch_optimizers() -> None:
    """Makes every optimiser of this process ask :func:`verify` before it steps."""
    global _hooked
    with _hook_lock:
        if not _hooked:
            register_optimizer_step_pre_hook(verify)
            _hooked = True


def expect(interface: Interface) -> Expectation:
    """Notes that ``interface`` sent a message; whoever sees its error sets ``served``."""
    found = _expectations.open.get(id(interface))
    if found is None or found.interface() is not interface:
        found = _expectations.open[id(interface)] = Expectation(interface)
    return found


def verify(optimizer: Optimizer, *_: Any) -> None:
    """Checks the interfaces whose feedback models ``optimizer`` is about to update.

    Raises:
        LockingError: one of them sent messages since the last step and got no error back.
    """
    waiting = _expectations.open
    unserved = [(key, found) for key, found in waiting.items() if not found.served]
    if len(unserved) < len(waiting):
        waiting.clear()
        waiting.update(unserved)
    if not unserved:
        return
    owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for key, expectation in unserved:
        interface = expectation.interface()
        if interface is None:
            del waiting[key]
        elif any(id(p) in owned for p in interface.feedback.parameters()):
            del waiting[key]
            raise LockingError(
                f"{interface.label}: no gradient reached it. It sent a message since the last "
                "optimiser step, but no backward pass came back through it, so neither its "
                "sender nor its feedback model would learn. Use its message in the loss, or "
                "take the interface out."
            )
