"""The mathematics of decoupled neural interfaces, as pure functions.

Equation numbers are those of METHOD, the restatement in ``docs/method.md``; sections are the
paper's (Jaderberg et al., 2017) and its supplement's (A to D).

Two scales of error appear. The *mean* error is what autograd carries: the gradient of the scalar
loss with respect to the message. The *per-example* error is ``batch`` times that when the loss is
a mean over the batch: it does not shrink as the batch grows, so squared errors stay far above an
optimiser's epsilon. Feedback models predict the per-example error.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real

import torch
from torch import Tensor

from synthgrad import _checks, _formulas
from synthgrad._formulas import Respond
from synthgrad.errors import ArgumentError, ShapeError
from synthgrad.types import Float, Shaped


def mix(
    real: Float[Tensor, "*message"], synthetic: Float[Tensor, "*message"], lambda_: float
) -> Float[Tensor, "*message"]:
    r"""Mixes the error from above with the synthetic one (supplement A.2).

    .. math:: \bar g_k = \lambda_k \bar z_k + (1 - \lambda_k) g_k

    At ``lambda_=1`` the result *is* ``real`` and at 0 it *is* ``synthetic``, so the ends are exact
    to the last bit and a non-finite value of the unused side cannot leak in.

    Args:
        real: the error pushed down from above, ``z̄_k = ḡ_{k+1} ∂h_{k+1}/∂h_k``.
        synthetic: the feedback model's error ``g_k``, on the same scale as ``real``.
        lambda_: the weight of the real error, in [0, 1].

    Raises:
        ArgumentError: ``lambda_`` is outside [0, 1] or not a number.
    """
    _checks.alike(real=real, synthetic=synthetic)
    if real.dtype != synthetic.dtype:
        raise ShapeError(f"real is {real.dtype}, synthetic {synthetic.dtype}; expected the same")
    check_lambda(lambda_)
    return _formulas.mix(real, synthetic, lambda_)


def check_lambda(lambda_: float) -> float:
    """Returns ``lambda_`` if it is a weight.

    Raises:
        ArgumentError: it is outside [0, 1] or not a number.
    """
    if isinstance(lambda_, bool) or not isinstance(lambda_, Real) or not 0 <= lambda_ <= 1:
        raise ArgumentError(f"lambda_ must lie in [0, 1], got {_checks.came(lambda_)}")
    return lambda_


def mixture(synthetic: Sequence[Tensor], lambdas: Sequence[float]) -> Tensor:
    r"""The closed form of BP(λ) for one interface (supplement A.2).

    .. math:: \bar g_k = \sum_{n=k}^{K} c_k^n g_k^n,
              \qquad c_k^n = (1 - \lambda_n) \prod_{j=k}^{n-1} \lambda_j

    Args:
        synthetic: ``g_k^n`` for n = k … K, each the error of interface n carried down to k by the
            chain rule; the last is the true error.
        lambdas: ``λ_n`` for n = k … K - 1. The top has no interface: its λ counts as 0.

    Raises:
        ShapeError: there is not exactly one error more than there are lambdas.
    """
    synthetic = _checks.sequence("synthetic", synthetic)
    lambdas = [check_lambda(lambda_) for lambda_ in _checks.sequence("lambdas", lambdas)]
    if len(synthetic) != len(lambdas) + 1:
        raise ShapeError(
            f"{len(lambdas)} lambdas need {len(lambdas) + 1} errors (one per interface and the "
            f"true one), got {len(synthetic)}"
        )
    _checks.alike(**{f"error {n}": error for n, error in enumerate(synthetic)})
    total = torch.zeros_like(synthetic[0])
    carried = 1.0
    for error, lambda_ in zip(synthetic, [*lambdas, 0.0], strict=True):
        total = total + carried * (1 - lambda_) * error
        carried *= lambda_
    return total


def per_example(delta: Float[Tensor, " batch *message"], reduction: str) -> Tensor:
    """The per-example error of a mean error: ``batch * delta`` for a mean loss, else ``delta``."""
    _check(delta, reduction)
    return _formulas.per_example(delta, reduction)


def per_loss(delta_hat: Float[Tensor, " batch *message"], reduction: str) -> Tensor:
    """The inverse of :func:`per_example`: the error on the scale that autograd carries."""
    _check(delta_hat, reduction)
    return _formulas.per_loss(delta_hat, reduction)


def squared_error(
    prediction: Float[Tensor, " batch *message"], target: Float[Tensor, " batch *message"]
) -> Float[Tensor, ""]:
    r"""The regression loss of a feedback model, with weight 1 (sections 2.2 and D.1).

    .. math:: \frac1B \sum_b \lVert \hat\delta_b - \delta_b \rVert_2^2

    The sum runs over everything but the batch; both sides are per-example errors.
    """
    _checks.alike(prediction=prediction, target=target)
    _check(prediction)
    return (prediction - target).square().sum() / prediction.shape[0]


def regression_grad(
    synthetic: Float[Tensor, " batch *message"],
    delta: Float[Tensor, " batch *message"],
    reduction: str,
) -> Float[Tensor, " batch *message"]:
    r"""The gradient of :func:`squared_error` with respect to the per-example prediction.

    .. math:: \frac2B (\hat\delta_b - \delta_b)

    It is taken from the errors on the scale that autograd carries, 1/B of the per-example ones
    for a mean loss, so that nothing is scaled up only to be scaled down.

    Args:
        synthetic: the predicted error, after :func:`per_loss`.
        delta: the error that arrived.
        reduction: "mean" or "sum".
    """
    _checks.alike(synthetic=synthetic, delta=delta)
    _check(delta, reduction)
    return _formulas.regression_grad(synthetic, delta, reduction)


def redirect(
    h: Shaped[Tensor, "*message"],
    respond: Respond,
    others: Sequence[Tensor] = (),
    saved: Sequence[Tensor] = (),
) -> Shaped[Tensor, "*message"]:
    """The identity on ``h``, with a backward pass that ``respond`` decides.

    When the error δ of the result arrives, ``respond(δ, *saved)`` gives the error that goes on to
    ``h`` and one for each of ``others`` (a feedback model's prediction, or its parameters). Every
    one of them then flows on through the same backward pass, so hooks, accumulation,
    ``torch.autograd.grad`` and data-parallel wrappers see ordinary gradients.

    Args:
        h: the message.
        respond: called once per backward pass with ``∂L/∂result``, after all receivers of the
            message have added theirs.
        others: tensors that get a gradient although the result does not depend on them.
        saved: what ``respond`` needs; held as autograd holds saved tensors, until it has used them.

    Returns:
        A tensor equal to ``h`` that shares its memory and may be modified in place.
    """
    for name, tensors in (("h", (h,)), ("others", others), ("saved", saved)):
        if not isinstance(tensors, Sequence) or not all(isinstance(t, Tensor) for t in tensors):
            raise ArgumentError(f"{name} must be tensors, got {_checks.came(tensors)}")
    _checks.function("respond", respond)
    return _formulas.redirect(h, respond, others, saved)


def _check(error: Tensor, reduction: str = "mean") -> None:
    if _checks.dense("an error", error).ndim < 1 or not len(error):
        raise ShapeError(f"an error is (batch, ...), got {_checks.came(error)}")
    _checks.word("reduction", reduction, ("mean", "sum"))
