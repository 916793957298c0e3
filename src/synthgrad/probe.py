"""How far synthetic errors are from the true ones (fig. 12)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from synthgrad import _checks
from synthgrad._sandbox import preserved
from synthgrad.context import context as in_context
from synthgrad.decouple import named_interfaces
from synthgrad.errors import LockingError
from synthgrad.functional import per_example
from synthgrad.interface import Interface, routed


@dataclass(frozen=True)
class Distance(Mapping[str, float]):
    """How far one interface's synthetic error is from the true one; also a mapping of the same.

    Attributes:
        l2: ``‖δ̂_b - δ_b‖₂``, the mean over examples, of per-example errors.
        cosine: the cosine between ``δ̂_b`` and ``δ_b``, the mean over examples; 0 where either is
            zero.
        sign_error: the share of components whose sign is wrong; a zero is wrong unless both are.
    """

    l2: float
    cosine: float
    sign_error: float

    def __getitem__(self, key: str) -> float:
        if key in self:
            return getattr(self, key)
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return iter(("l2", "cosine", "sign_error"))

    def __len__(self) -> int:
        return 3

    def __contains__(self, key: object) -> bool:
        return key in ("l2", "cosine", "sign_error")


def distance(delta_hat: Tensor, delta: Tensor) -> Distance:
    """Compares per-example errors, both ``"batch *message"``."""
    ours, true = delta_hat.flatten(1).float(), delta.flatten(1).float()
    return Distance(
        l2=float((ours - true).norm(dim=1).mean()),
        cosine=float(F.cosine_similarity(ours, true, dim=1, eps=1e-30).mean()),
        sign_error=float((ours.sign() != true.sign()).float().mean()),
    )


def probe(
    model: nn.Module, loss_fn: Callable[[Any], Tensor], x: Any, context: Any = None
) -> dict[str, Distance]:
    """Compares every interface's synthetic error with the true gradient of the loss.

    The true gradient is that of plain backpropagation through the whole model, in the mode it is
    in. Nothing is left changed: no parameter, gradient, buffer, remembered error or random state.

    Args:
        model: a module with interfaces.
        loss_fn: ``loss_fn(output)`` returns the scalar loss, or one per example, whose mean is
            then taken.
        x: the model's input.
        context: what conditional feedback models see besides, such as labels.

    Returns:
        By interface, in the order in which they ran: its name (as :func:`synthgrad.decouple` gave
        it, else its path in the model), with ``#2`` and so on where one runs more than once.

    Raises:
        LockingError: the model has no interface, or the loss does not depend on one's message.
    """
    paths = named_interfaces(_checks.module("model", model))
    _checks.function("loss_fn", loss_fn)
    if not paths:
        raise LockingError(f"{type(model).__name__} has no interface to probe")
    messages: dict[str, Tensor] = {}
    found: dict[str, tuple[Interface, Tensor]] = {}

    def watch(interface: Interface, h: Tensor, c: Any) -> Tensor:
        name = base = paths.get(interface, interface.label)
        repeat = 1
        while name in found:
            repeat += 1
            name = f"{base}#{repeat}"
        found[name] = (interface, interface.call(h, c).synthetic)
        messages[name] = h = h if h.requires_grad else h.detach().requires_grad_()
        return h

    with preserved(model), torch.enable_grad(), in_context(context):
        with routed(watch):
            output = model(x)
        loss = _checks.loss(loss_fn(output))
        loss = loss.mean() if loss.ndim else loss
        errors = torch.autograd.grad(loss, list(messages.values()), allow_unused=True)
    result = {}
    for (name, (interface, synthetic)), delta in zip(found.items(), errors, strict=True):
        if delta is None:
            raise LockingError(f"{interface.label}: the loss does not depend on its message")
        result[name] = distance(
            per_example(synthetic, interface.reduction), per_example(delta, interface.reduction)
        )
    return result
