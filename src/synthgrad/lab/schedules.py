"""How the learning rate falls."""

from __future__ import annotations


def rate_factor(step: int, iterations: int) -> float:
    """What the initial rate is multiplied with at a step, counted from 0.

    0.1 from 60% of the run and 0.01 from 80%: the paper's 300k and 400k of 500k (D.1).
    """
    return 0.1 ** ((10 * step >= 6 * iterations) + (10 * step >= 8 * iterations))
