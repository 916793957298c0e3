"""One curve out of the same metric of several runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from synthgrad.lab.report.runs import Run, Series

# More points than this cannot be told apart at the size that the charts have.
MAX_POINTS = 240

Array = np.ndarray


@dataclass(frozen=True)
class Curve:
    """A metric over steps: the mean over runs, and how far they reach.

    Attributes:
        steps: training steps, increasing.
        mean: over the runs, at each step.
        low: the lowest of them.
        high: the highest of them.
        stepped: whether each value holds until the next step that has one.
    """

    steps: Array
    mean: Array
    low: Array
    high: Array
    stepped: bool = False

    @property
    def last(self) -> float:
        """The mean at the last step that has one."""
        return float(self.mean[-1])


def across(
    runs: Sequence[Run], metric: str, over: str = "step", *, stepped: bool = False
) -> Curve | None:
    """A metric's mean and reach over runs, from where all that logged it have values.

    Runs that logged other steps are interpolated linearly. A finished run that ended before
    others (early stopping) keeps its last value; one that is under way counts as far as it has
    come. More than ``MAX_POINTS`` points are replaced by means over stretches of equal numbers of
    points.

    Args:
        runs: with the same settings.
        metric: which.
        over: instead of steps, a metric that says how far a run is, such as "samples".
        stepped: the metric is 0 at first, and keeps a value until it has the next.

    Returns:
        None if no run logged it.
    """
    series_of = _jumps if stepped else _over
    found = [(run, series) for run in runs if (series := series_of(run, metric, over))]
    if not found:
        return None
    first = max(min(series) for _, series in found)
    steps = np.array(sorted({s for _, series in found for s in series if s >= first}))
    values = np.stack([_at(steps, series, stepped) for _, series in found])
    there = np.stack([(run.summary is not None) | (steps <= max(s)) for run, s in found])
    low = values.min(axis=0, where=there, initial=np.inf)
    mean = values.mean(axis=0, where=there)
    high = values.max(axis=0, where=there, initial=-np.inf)
    if len(steps) <= MAX_POINTS:
        return Curve(steps, mean, low, high, stepped)
    return Curve(
        _thin(steps, np.mean),
        _thin(mean, np.mean),
        _thin(low, np.min),
        _thin(high, np.max),
        stepped,
    )


def _over(run: Run, metric: str, over: str) -> Series:
    series = run.series.get(metric, {})
    if over == "step":
        return series
    far = run.series.get(over, {})
    return {round(far[step]): value for step, value in series.items() if step in far}


def _jumps(run: Run, metric: str, over: str) -> Series:
    """When the metric changed: as the summary says for levels, else as far as it was logged."""
    logged = _over(run, metric, over)
    if run.summary is not None and run.summary.levels is not None:
        levels = {0: 0.0, **run.summary.levels}
        end = run.summary.metrics.get(over)
        return levels if end is None else levels | {round(end): levels[max(levels)]}
    return {0: 0.0, **logged} if logged else {}


def _at(steps: Array, series: Series, stepped: bool) -> Array:
    if not stepped:
        return np.interp(steps, list(series), list(series.values()))
    place = np.searchsorted(list(series), steps, side="right") - 1
    return np.array(list(series.values()))[place]


def _thin(values: Array, reduce: Callable[[Array], Any]) -> Array:
    return np.array([reduce(part) for part in np.array_split(values, MAX_POINTS)])
