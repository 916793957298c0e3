"""Values of the loss on their way down to critics: the scalar twin of the error's bootstrap.

An error comes down by itself, by the chain rule. The value of the loss does not, so every critic
is told, while the graph is built, which values stand above it: those of the next critics, or at
the top the real ones that :func:`losses` shows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from synthgrad import _checks
from synthgrad._graph import nodes_below
from synthgrad.errors import LockingError, ShapeError
from synthgrad.functional import mix


class Values:
    r"""The loss that one critic predicted for one message, and what it will be fitted to.

    As for errors (supplement A.2), the target is the λ-mixture of the critic above,
    :math:`\bar v_{k+1} = \lambda_{k+1} t_{k+1} + (1 - \lambda_{k+1}) v_{k+1}`, where
    :math:`t` is that critic's own target, or the real loss where there is none above. Several
    above (a fan-out) all estimate the same loss, so their mean is taken.
    """

    def __init__(self, critic: Any, h: Tensor, context: Any) -> None:
        with torch.no_grad():
            self.predicted: Tensor = critic.values(h, context)
        self.mixed = self.predicted
        self.above: list[Values | Tensor] = []

    def resolve(self, lambda_: float, *, required: bool) -> Tensor:
        """The target; also settles what the critics below are fitted to.

        Raises:
            LockingError: no values stand above, though ``required``.
        """
        if not self.above:
            if required:
                raise LockingError(
                    "a critic is fitted to values of the loss, and saw none: pass the per-example "
                    "losses through synthgrad.losses(...) before they are averaged, for example "
                    'synthgrad.losses(cross_entropy(output, y, reduction="none")).mean()'
                )
            return self.predicted
        found = [v.mixed if isinstance(v, Values) else v for v in self.above]
        target = torch.stack([v.to(self.predicted) for v in found]).mean(dim=0)
        self.mixed = mix(target, self.predicted, lambda_)
        return target


def losses(per_example: Tensor) -> Tensor:
    """Shows the real losses to the critics below; the identity on ``per_example``.

    Args:
        per_example: the loss of each example, "batch", still attached to its graph.

    Raises:
        ShapeError: it is not one number per example.
    """
    if not _checks.is_dense(per_example) or per_example.ndim != 1:
        raise ShapeError(
            f"expected one loss per example, (batch,), got {_checks.came(per_example)}"
        )
    for values in _values_below(per_example):
        values.above.append(per_example.detach())
    return per_example


def link(h: Tensor, values: Values | None) -> None:
    """Tells the critics below ``h`` that ``values`` stand above them; nothing where it is None."""
    if values is not None:
        for below in _values_below(h):
            below.above.append(values)


def _values_below(tensor: Tensor) -> list[Values]:
    def of(node: Any) -> Values | None:
        return getattr(getattr(node, "respond", None), "values", None)

    found = [of(node) for node in nodes_below(tensor, stop=lambda node: of(node) is not None)]
    return [values for values in found if values is not None]
