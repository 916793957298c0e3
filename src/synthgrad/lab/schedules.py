"""How the learning rate falls."""

from __future__ import annotations

from synthgrad.lab.config import FeedForwardConfig


def rate_factor(config: FeedForwardConfig, step: int) -> float:
    """What the initial rate is multiplied with at a step, counted from 0.

    "paper" (D.1): x0.1 at 300k and 400k iterations. "ours": x0.1 at 60% and 80% of the run.
    """
    if config.schedule == "paper":
        falls = (300_000, 400_000)
    else:
        falls = (int(0.6 * config.iterations), int(0.8 * config.iterations))
    return 0.1 ** sum(step >= fall for fall in falls)
