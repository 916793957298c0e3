"""What an optimiser looks at before it steps: interfaces that did nothing, or something wrong.

A plain training loop would not notice an interface that no error reached, that never ran, or whose
feedback model nobody trains. The moment of truth is the optimiser's step: nothing has been changed
yet, and everything that the step rests on has happened.
"""

from __future__ import annotations

import gc
import sys
import threading
import warnings
import weakref
from typing import Any, Protocol

from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from synthgrad._graph import leaf_of, nodes_below
from synthgrad.errors import LockingError, SynthgradWarning


class Record:
    """What happened to one interface.

    Attributes:
        runs: how often it has run where it had something to do.
        answered: whether an error came back since the last step of its optimiser.
        bypassed: whether it has stood aside, being in eval mode, while gradients were recorded.
        unscaled: whether it gave a synthetic error on since the last step of its optimiser without
            being told what the loss was multiplied by.
        said: what was warned of, once.
        below: the network's parameters whose errors go through it, as its first run found them.
        learning: a parameter of its sender that learns.
        waiting: the messages under way that were given a context.
    """

    def __init__(self) -> None:
        self.runs = 0
        self.answered = False
        self.bypassed = False
        self.unscaled = False
        self.said = False
        self.below: list[weakref.ref[Tensor]] = []
        self.learning: weakref.ref[Tensor] | None = None
        self.waiting: weakref.WeakSet[Any] = weakref.WeakSet()

    def __deepcopy__(self, _: Any) -> Record:
        return Record()

    def __reduce__(self) -> Any:
        return Record, ()


class Watched(Protocol):
    """What is watched: an interface, feed-forward or recurrent."""

    record: Record
    feedback: nn.Module

    @property
    def label(self) -> str:
        """How errors call it."""
        ...

    def count_step(self) -> None:
        """Its optimiser steps, and errors came back since it last did."""
        ...

    def sender(self) -> nn.Module | None:
        """The module behind which it was put, where that is known."""
        ...


class Expectation:
    """Messages that one interface sent in one thread since the last step; have any got an error?"""

    __slots__ = ("interface", "served")

    def __init__(self, interface: Any) -> None:
        self.interface = weakref.ref(interface)
        self.served = False


class _PerThread(threading.local):
    def __init__(self) -> None:
        self.open: dict[int, Expectation] = {}


class _Trained:
    """The interfaces whose feedback models one optimiser updates.

    Attributes:
        when: what was known when they were looked up; looked up again when that changes.
        owned: the interfaces; ``free`` are those whose models have no parameters, which any
            optimiser's step is a step of.
        seen: by interface, its runs and its sender's gradient at this optimiser's last step.
    """

    def __init__(self, when: tuple[int, int], owned: list[Any], free: list[Any]) -> None:
        self.when = when
        self.owned = [weakref.ref(interface) for interface in owned]
        self.free = [weakref.ref(interface) for interface in free]
        self.seen: dict[int, tuple[int, _Seen | None]] = {}


_expectations = _PerThread()
_lock = threading.Lock()
_hooked = False
_made = 0
_watched: weakref.WeakSet[Any] = weakref.WeakSet()
_unclaimed: weakref.WeakSet[Any] = weakref.WeakSet()
_trained: weakref.WeakKeyDictionary[Optimizer, _Trained] = weakref.WeakKeyDictionary()


def watch(interface: Any) -> Record:
    """Makes every optimiser of this process look at ``interface`` before it steps."""
    global _hooked, _made
    with _lock:
        if not _hooked:
            register_optimizer_step_pre_hook(verify)
            _hooked = True
        _made += 1
        _watched.add(interface)
        _unclaimed.add(interface)
    return Record()


def note_run(record: Record, message: Tensor) -> None:
    """Notes a run; at the first, which parameters lie below, down to other interfaces."""
    if not record.runs:
        leaves = (leaf_of(n) for n in nodes_below(message, lambda n: hasattr(n, "respond")))
        record.below = [weakref.ref(leaf) for leaf in leaves if leaf is not None]
    record.runs += 1


def expect(interface: Any) -> Expectation:
    """Notes that ``interface`` sent a message; whoever sees its error sets ``served``."""
    found = _expectations.open.get(id(interface))
    if found is None or found.interface() is not interface:
        found = _expectations.open[id(interface)] = Expectation(interface)
    return found


def verify(optimizer: Optimizer, *_: Any) -> None:
    """Checks the interfaces whose feedback models ``optimizer`` is about to update.

    Warns where a feedback model is frozen, or in no optimiser.

    Raises:
        LockingError: one of them sent messages since the last step and got no error back; or never
            ran, though its sender learns; or stood aside in eval mode; or a loss scaler multiplied
            the loss and did not say so.
    """
    trained = _trained_by(optimizer)
    owned = [interface for ref in trained.owned if (interface := ref()) is not None]
    for interface in owned:
        _refuse_unserved(interface)
        _refuse_bypassed(interface, optimizer)
        _refuse_missing(interface, trained, optimizer)
    if _unclaimed:
        _look_at_unclaimed(owned, optimizer)
    owned += [interface for ref in trained.free if (interface := ref()) is not None]
    unscaled = [interface for interface in owned if interface.record.unscaled]
    if unscaled:
        _refuse_unscaled(unscaled)
    for interface in owned:
        record = interface.record
        if record.answered:
            record.answered = record.unscaled = False
            interface.count_step()


def _refuse_unserved(interface: Any) -> None:
    waiting = _expectations.open
    found = waiting.get(id(interface))
    if found is None or found.interface() is not interface:
        return
    del waiting[id(interface)]
    if not found.served:
        raise LockingError(
            f"{interface.label}: no gradient reached it. It sent a message since the last "
            "optimiser step, but no backward pass came back through it, so neither its "
            "sender nor its feedback model would learn. Use its message in the loss, or "
            "take the interface out."
        )


def _refuse_bypassed(interface: Any, optimizer: Optimizer) -> None:
    if interface.record.bypassed and _has_gradients(optimizer):
        interface.record.bypassed = False
        raise LockingError(
            f"{interface.label}: it is in eval mode, where it does nothing, while gradients were "
            "recorded: they are those of training without it. Call train() on it (a module's "
            "eval() reaches the interfaces inside), or take it out (synthgrad.recouple)"
        )


def _refuse_unscaled(interfaces: list[Any]) -> None:
    if _is_scaled():
        interfaces[0].record.unscaled = False
        raise LockingError(
            f"{interfaces[0].label}: a GradScaler multiplied the loss, but not the synthetic error "
            "that went to the sender; expected synthgrad.loss(loss) around the loss before "
            "scaler.scale(), which tells every interface what the loss is multiplied by"
        )


def _refuse_missing(interface: Any, trained: _Trained, optimizer: Optimizer) -> None:
    """An interface that was passed by while its sender got a gradient."""
    runs, sender = interface.record.runs, interface.sender()
    own = None if sender is None else _first_learning(interface.record, sender)
    before = trained.seen.get(id(interface))
    grad = None if own is None else own.grad
    trained.seen[id(interface)] = (runs, None if grad is None else _Seen(grad))
    if before is None:
        if runs:
            return
    elif runs != before[0] or (before[1].is_still(grad) if before[1] else grad is None):
        return
    if own is None:
        # Without anything that learns in its sender only a first step in vain can be told.
        if before is not None or not _has_gradients(optimizer):
            return
        if sender is None:
            if all(p.grad is None for p in interface.feedback.parameters()):
                _warn(interface, "it has not run by the first optimiser step; is it ever called?")
            return
    elif own.grad is None or not _is_nonzero(own.grad):
        return
    raise LockingError(
        f"{interface.label}: it did not run, so nothing was cut there, though the model was "
        "trained: the submodule that it is behind was not called, as where a parent "
        "uses its parameters (nn.MultiheadAttention with its out_proj) or a fused path takes its "
        "place. Cut behind a module that is called, such as its parent"
    )


def _look_at_unclaimed(owned: list[Any], optimizer: Optimizer) -> None:
    """Warns of feedback models that no optimiser trains, once each.

    Those are meant that say what ``optimizer`` gives to its parameters; others may just have been
    looked at.
    """
    for interface in owned:
        _unclaimed.discard(interface)
        parameters = list(interface.feedback.parameters())
        if not any(p.requires_grad for p in parameters):
            _warn(interface, _FROZEN)
    ids = None
    for interface in [i for i in _unclaimed if i.record.answered]:
        ids = _ids(optimizer) if ids is None else ids
        if ids.isdisjoint(id(parameter()) for parameter in interface.record.below):
            continue
        _unclaimed.discard(interface)
        parameters = {id(p): p for p in interface.feedback.parameters()}
        if not parameters:
            continue
        if not any(p.requires_grad for p in parameters.values()):
            _warn(interface, _FROZEN)
        elif not any(parameters.keys() & _ids(other) for other in _living_optimizers()):
            _warn(
                interface,
                "no optimiser has its feedback model's parameters, so it will never predict "
                "anything else; give synthgrad.feedback_parameters(model) to one",
            )


_FROZEN = (
    "its feedback model is frozen (no parameter requires grad), so what it predicts will not "
    "follow the network; expected at least one parameter with requires_grad=True"
)


def _warn(interface: Any, what: str) -> None:
    if not interface.record.said:
        interface.record.said = True
        warnings.warn(f"{interface.label}: {what}", SynthgradWarning, stacklevel=2)


def _trained_by(optimizer: Optimizer) -> _Trained:
    when = (_made, sum(len(group["params"]) for group in optimizer.param_groups))
    found = _trained.get(optimizer)
    if found is None or found.when != when:
        ids = _ids(optimizer)
        owned, free = [], []
        for interface in list(_watched):
            parameters = {id(p) for p in interface.feedback.parameters()}
            if not parameters:
                free.append(interface)
            elif parameters & ids:
                owned.append(interface)
        seen = {} if found is None else found.seen
        found = _trained[optimizer] = _Trained(when, owned, free)
        found.seen = {id(i): seen[id(i)] for i in owned if id(i) in seen}
    return found


def _ids(optimizer: Optimizer) -> set[int]:
    return {id(p) for group in optimizer.param_groups for p in group["params"]}


def _living_optimizers() -> list[Optimizer]:
    # Nobody keeps a list of them. It takes some 50 ms, once for an interface that looks forgotten.
    # No generator: where one is left halfway, its frame holds every object of the process.
    living = gc.get_objects()
    found = [t for t in living if issubclass(type(t), Optimizer) and hasattr(t, "param_groups")]
    living.clear()
    return found


def _has_gradients(optimizer: Optimizer) -> bool:
    return any(p.grad is not None for group in optimizer.param_groups for p in group["params"])


class _Seen:
    """A gradient as it was; held weakly, since another may come to lie where it was."""

    def __init__(self, grad: Tensor) -> None:
        self._grad, self._version = weakref.ref(grad), grad._version

    def is_still(self, grad: Tensor | None) -> bool:
        return grad is not None and self._grad() is grad and grad._version == self._version


def _first_learning(record: Record, sender: nn.Module) -> Tensor | None:
    known = None if record.learning is None else record.learning()
    if known is not None and known.requires_grad:
        return known
    for name, parameter in sender.named_parameters():
        if parameter.requires_grad and "interface" not in name.split("."):
            record.learning = weakref.ref(parameter)
            return parameter
    return None


def _is_nonzero(grad: Tensor) -> bool:
    return bool((grad._values() if grad.is_sparse else grad).count_nonzero())


def _is_scaled() -> bool:
    """Whether a loss scaler is what called the optimiser, and multiplies by something."""
    frame = sys._getframe(1)
    for _ in range(12):  # the optimiser's own wrappers, and those of a learning rate schedule
        if frame.f_code is GradScaler.step.__code__:
            scaler = frame.f_locals["self"]
            return scaler.is_enabled() and scaler.get_scale() != 1
        if frame.f_back is None:
            return False
        frame = frame.f_back
    return False
