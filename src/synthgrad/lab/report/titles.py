"""What the columns of a results table are called: as the experiments that log them say."""

from __future__ import annotations

from collections.abc import Sequence

from synthgrad.lab.experiments import metrics
from synthgrad.lab.report.runs import Run

METRICS = metrics()
"""Those of all experiments by name, in the order of the table."""


def title(name: str, runs: Sequence[Run]) -> str:
    """The title of a metric's column, with its unit."""
    levels = {run.config.get("bpc_level") for run in runs}
    level = levels.pop() if len(levels) == 1 else None
    said = "their bpc level" if level is None else f"{level} bits per character"
    known = METRICS.get(name)
    return (known.title if known else name.replace("_", " ")).replace("{level}", said)


def in_order(names: Sequence[str]) -> list[str]:
    """The metrics that have a column: the foremost first. Interfaces have charts of their own."""
    declared = [name for name, metric in METRICS.items() if metric.title and name in names]
    rest = [n for n in names if n not in METRICS and not n.startswith("interface/")]
    return declared + rest
