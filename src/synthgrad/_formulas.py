"""The formulas of :mod:`synthgrad.functional`, for tensors that are known to fit each other.

There they stand with their equations, and what users pass is checked; here the engine finds them
without, for it meets each of them several times in a step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Respond = Callable[..., Sequence[Tensor | None]]


def mix(real: Tensor, synthetic: Tensor, lambda_: float) -> Tensor:
    """:func:`synthgrad.functional.mix`."""
    if lambda_ == 1:
        return real
    if lambda_ == 0:
        return synthetic
    return torch.lerp(synthetic, real, lambda_)


def per_example(delta: Tensor, reduction: str) -> Tensor:
    """:func:`synthgrad.functional.per_example`."""
    return delta * delta.shape[0] if reduction == "mean" else delta


def per_loss(delta_hat: Tensor, reduction: str) -> Tensor:
    """:func:`synthgrad.functional.per_loss`."""
    return delta_hat / delta_hat.shape[0] if reduction == "mean" else delta_hat


def regression_grad(synthetic: Tensor, delta: Tensor, reduction: str) -> Tensor:
    """:func:`synthgrad.functional.regression_grad`."""
    factor = 2.0 if reduction == "mean" else 2.0 / delta.shape[0]
    return (synthetic - delta).mul_(factor)


def redirect(
    h: Tensor, respond: Respond, others: Sequence[Tensor] = (), saved: Sequence[Tensor] = ()
) -> Tensor:
    """:func:`synthgrad.functional.redirect`."""
    return cast(Tensor, _Redirect.apply(h, respond, saved, *others))


class _Redirect(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, h: Tensor, respond: Respond, saved: Sequence[Tensor], *_: Tensor
    ) -> Tensor:
        ctx.respond = respond
        ctx.saves = bool(saved)
        ctx.save_for_backward(*saved)
        # A detached alias, not a view: what comes next may work in place.
        return h.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, delta: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        # Without anything saved, several backward passes may come through, as for any such node.
        saved: Sequence[Tensor] = ()
        if ctx.saves:
            try:
                saved = ctx.saved_tensors
            except RuntimeError as problem:  # freed by a first pass, or changed in place
                explain = getattr(ctx.respond, "explain", None)
                if explain is None:
                    raise
                raise explain(problem) from problem
        error, *rest = ctx.respond(delta, *saved)
        return (error, None, None, *rest)
