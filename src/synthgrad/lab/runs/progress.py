"""Progress: bars on a terminal, plain lines elsewhere; and what a run came to, in one line."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from synthgrad.lab.experiments import metrics


class Report(Protocol):
    """Where a run says how far it is."""

    def __call__(self, step: int, values: dict[str, float]) -> None:
        """Says that ``step`` steps are done, and what was measured, if anything."""


LINES_EVERY = 5.0
"""Seconds between plain lines."""


@contextmanager
def progress(name: str, total: int, start: int = 0) -> Iterator[Report]:
    """Shows ``name`` advance from ``start`` to ``total`` steps."""
    if sys.stderr.isatty():
        with _bar(name, total, start) as report:
            yield report
    else:
        yield _lines(name, total)


@contextmanager
def _bar(name: str, total: int, start: int) -> Iterator[Report]:
    from rich import progress as rich
    from rich.console import Console

    columns = (
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TimeRemainingColumn(),
        rich.TextColumn("{task.fields[shown]}"),
    )
    with rich.Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(f"{name:<10}", total=total, completed=start, shown="")

        def report(step: int, values: dict[str, float]) -> None:
            if values:
                bars.update(task, completed=step, shown=_shown(values))
            else:
                bars.update(task, completed=step)

        yield report


def _lines(name: str, total: int) -> Report:
    last = 0.0

    def report(step: int, values: dict[str, float]) -> None:
        nonlocal last
        now = time.monotonic()
        if values and (step == total or now - last >= LINES_EVERY):
            last = now
            line = f"{name}: {step}/{total} {_shown(values)}".rstrip()
            print(line, file=sys.stderr, flush=True)

    return report


def _shown(values: Mapping[str, float]) -> str:
    """What there is of it; NaN says that nothing was measured, and a divergence is an error."""
    known = metrics()
    return "  ".join(
        known[name].progress.format(value)
        for name, value in values.items()
        if name in known and known[name].progress and not math.isnan(value)
    )


def outcome(summary: Mapping[str, Any]) -> str:
    """What a finished run came to, as in "test error 1.36% after 5000 iterations in 60 s"."""
    found = summary["metrics"]
    said = next(
        (
            metric.outcome.format(found[name])
            for name, metric in metrics().items()
            if metric.outcome and found.get(name) is not None
        ),
        "done",
    )
    return f"{said} after {summary['iterations']} iterations in {summary['seconds']:.0f} s"
