"""Test errors against the probability of an update: figure 7."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import numpy as np

from synthgrad.lab.experiment import Axis
from synthgrad.lab.report.charts import Chart, Line, Look
from synthgrad.lab.report.curves import Curve
from synthgrad.lab.report.groups import Group
from synthgrad.lab.report.runs import Run
from synthgrad.lab.report.scatter import scatter

LEAST = 3
"""So many probabilities make a chart against them; fewer are curves like any."""

_SHARES = (0.1, 0.3, 1.0)
_LOOKS = (Look("#E69F00", marker="^"), Look("#0072B2", marker="s"), Look("#009E73", marker="o"))
_BACKPROP = Look("#882255", marker="D")
_TITLES = {
    "no": "each updated by chance",
    "update": "each updated by chance",
    "full": "each run by chance, on synthetic inputs",
}
_AXIS = Axis("test_error", "Test error by p_update", "test error, %", over="p_update")


def families(groups: Sequence[Group]) -> list[list[Group]]:
    """The groups that differ in nothing but ``p_update``, where enough of them are finished.

    A run that is still under way has no place in a chart of what runs came to.
    """
    found: dict[str, list[Group]] = {}
    for group in groups:
        if "p_update" in group.settings and group.finished:
            others = {k: v for k, v in group.settings.items() if k != "p_update"}
            key = json.dumps([group.method, others], sort_keys=True, default=str)
            found.setdefault(key, []).append(group)
    return [family for family in found.values() if len(family) >= LEAST]


def title(family: Sequence[Group]) -> str:
    """What the layers of these runs do by chance."""
    return _TITLES[family[0].runs[0].config.get("unlock", "no")]


def charts(
    family: Sequence[Group],
    references: Sequence[Group],
    about: str,
    prefix: str,
    numbers: Iterator[int],
) -> Iterator[Chart]:
    """One chart: a point for each finished run, after several numbers of iterations.

    Args:
        family: groups that differ in ``p_update``.
        references: groups that wait for every update, to be drawn at a probability of 1.
        about: what the chart is about.
        prefix: makes ids unique in the page, with the next of ``numbers``.
        numbers: counts the charts.
    """
    runs = [run for group in family for run in group.finished if "test_error" in run.series]
    lines = [
        Line(f"{step:,} iterations", _points(runs, step), look)
        for step, look in zip(_steps(runs), _LOOKS, strict=False)
    ]
    for group in references:
        done = [run for run in group.finished if "test_error" in run.series]
        if done and lines:
            ends = np.array(
                [run.series["test_error"][max(run.series["test_error"])] for run in done]
            )
            curve = Curve(np.ones(len(ends)), ends, ends, ends)
            lines.append(Line(group.method, curve, _BACKPROP))
    if lines:
        about = f"{about}, {family[0].method}"
        yield scatter(_AXIS, lines, family[0].method, about, f"{prefix}-{next(numbers)}")


def _steps(runs: Sequence[Run]) -> list[int]:
    """The steps at which to look: some that all runs have logged, and the last such."""
    logged = [set(run.series["test_error"]) for run in runs]
    shared = sorted(set.intersection(*logged)) if logged else []
    if not shared:
        return []
    chosen = [max((s for s in shared if s <= share * shared[-1]), default=0) for share in _SHARES]
    return sorted({step for step in chosen if step})


def _points(runs: Sequence[Run], step: int) -> Curve:
    """The runs' errors at a step, by probability."""
    by_p = sorted((float(run.config["p_update"]), run.series["test_error"][step]) for run in runs)
    p, error = (np.array(part) for part in zip(*by_p, strict=True))
    return Curve(p, error, error, error)
