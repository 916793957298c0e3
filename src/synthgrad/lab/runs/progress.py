"""Progress: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


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


# In this order.
_SHOWN = (
    ("train_loss", "loss {:.4f}"),
    ("train_loss_a", "loss a {:.4f}"),
    ("train_loss_b", "loss b {:.4f}"),
    ("validation_error", "validation error {:.2f}%"),
    ("validation_error_a", "validation error a {:.2f}%"),
    ("validation_error_b", "validation error b {:.2f}%"),
    ("test_error", "test error {:.2f}%"),
    ("test_error_a", "test error a {:.2f}%"),
    ("test_error_b", "test error b {:.2f}%"),
    ("train_bits", "train bits {:.3f}"),
    ("task_length", "task length {:.0f}"),
    ("solved_length", "solved length {:.0f}"),
    ("validation_bpc", "validation bpc {:.3f}"),
    ("test_bpc", "test bpc {:.3f}"),
    ("explained/boundary", "explained/boundary {:.2f}"),
)


def _shown(values: dict[str, float]) -> str:
    """What there is of it; NaN says that nothing was measured, and a divergence is an error."""
    return "  ".join(
        text.format(values[key])
        for key, text in _SHOWN
        if not math.isnan(values.get(key, math.nan))
    )
