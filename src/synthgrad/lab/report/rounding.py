"""Numbers as text, with as many digits as their kind deserves."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from synthgrad.lab.experiments import metrics

_METRICS = metrics()


def number(metric: str, value: float) -> str:
    """One value of a metric, with the digits that its experiment declares; else with three."""
    return _fixed(value, _decimals(metric, value))


def spread(metric: str, numbers: Sequence[float]) -> str:
    """Mean ± sample standard deviation, to the same digit; the mean alone of a single number."""
    if not numbers:
        return "–"
    if not all(map(math.isfinite, numbers)):
        return "not finite"
    mean = statistics.fmean(numbers)
    decimals = _decimals(metric, mean)
    if len(numbers) == 1:
        return _fixed(mean, decimals)
    return f"{_fixed(mean, decimals)} ± {_fixed(statistics.stdev(numbers), decimals)}"


def span(numbers: Sequence[int]) -> str:
    """A whole number, or from the lowest to the highest where they differ."""
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def seconds(numbers: Sequence[float]) -> str:
    """The mean of times in seconds."""
    if not numbers:
        return "–"
    mean = statistics.fmean(numbers)
    return f"{mean:,.0f}" if mean >= 100 else f"{mean:.1f}"


def _decimals(metric: str, value: float) -> int | None:
    known = _METRICS.get(metric)
    digits = None if known is None else known.digits
    if digits == 0 and not float(value).is_integer():  # a mean of counts
        return 1
    if digits is not None:
        return digits
    if value == 0 or not math.isfinite(value):
        return 0
    size = math.floor(math.log10(abs(value)))
    return max(0, 2 - size) if size >= -4 else None


def _fixed(value: float, decimals: int | None) -> str:
    return f"{value:.2e}" if decimals is None else f"{value:,.{decimals}f}"
