"""The results table: one row for each group of runs, aggregated over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from synthgrad.lab.report.groups import Group, describe
from synthgrad.lab.report.paper import paper_number
from synthgrad.lab.report.rounding import number, seconds, span, spread
from synthgrad.lab.report.runs import Run

TITLES = {
    "test_error": "Test error, %",
    "test_error_a": "Test error of network A, %",
    "test_error_b": "Test error of network B, %",
    "validation_error": "Validation error, %",
    "train_error": "Training error, %",
    "train_loss": "Training loss",
    "train_loss_a": "Training loss of network A",
    "train_loss_b": "Training loss of network B",
    "solved_length": "Longest length solved",
    "test_bpc": "Test bits per character",
    "validation_bpc": "Validation bits per character",
    "train_bits": "Training bits per character",
    "explained/boundary": "Explained variance",
}
# Rows of other recipes that the report's reader has no use for.
_INNER = {
    "n",
    "r",
    "level_bits",
    "task_length",
    "gradient_norm",
    "feedback_gradient_norm",
    "ticks",
}


@dataclass(frozen=True)
class Row:
    """One group of runs.

    Attributes:
        size: layers as the paper counts them; for recurrent networks, the steps of an unroll.
        method: what error came back between the layers.
        settings: the settings that tell rows apart.
        values: mean ± sample standard deviation of each metric, in the table's order.
        paper: the paper's number for it, or a dash.
        seeds: how many seeds the numbers are of.
        iterations: training steps, each of them one update.
        seconds: mean wall-clock time.
        unfinished: what is not done yet, or nothing.
    """

    size: str
    method: str
    settings: str
    values: tuple[str, ...]
    paper: str
    seeds: str
    iterations: str
    seconds: str
    unfinished: str


@dataclass(frozen=True)
class Table:
    """The rows of one recipe.

    Attributes:
        size: the title of the column that ``Row.size`` fills.
        metrics: the titles of the columns that ``Row.values`` fill.
        rows: by layers and method.
        has_paper: whether the paper gives a number for any row.
        has_settings: whether any row has settings to tell it by.
    """

    size: str
    metrics: tuple[str, ...]
    rows: tuple[Row, ...]
    has_paper: bool
    has_settings: bool


def table(groups: Sequence[Group]) -> Table:
    """The table of one recipe's groups."""
    names = _metrics(groups)
    rows = tuple(_row(group, names) for group in groups)
    return Table(
        size="Unroll" if all(group.layers is None for group in groups) else "Layers",
        metrics=tuple(TITLES.get(name, name.replace("_", " ")) for name in names),
        rows=rows,
        has_paper=any(row.paper != "–" for row in rows),
        has_settings=any(row.settings for row in rows),
    )


def _metrics(groups: Sequence[Group]) -> list[str]:
    final = {name: None for g in groups for run in g.runs for name in values(run)}
    # Interfaces have charts of their own.
    rest = [
        name
        for name in final
        if name not in TITLES and name not in _INNER and not name.startswith("interface/")
    ]
    return [name for name in TITLES if name in final] + rest


def values(run: Run) -> dict[str, float]:
    """A run's final numbers, or the last that it logged while it is unfinished."""
    if run.summary is not None:
        return dict(run.summary.metrics)
    return {name: series[max(series)] for name, series in run.series.items()}


def result(run: Run) -> str:
    """A run's foremost number, with its name, or a dash."""
    found = values(run)
    for name, title in TITLES.items():
        if name in found:
            words, _, unit = title.partition(", ")
            return f"{words} {number(name, found[name])}{unit}"
    return "–"


def _row(group: Group, names: Sequence[str]) -> Row:
    paper = paper_number(group.recipe, group.layers, group.method, group.runs[0].config)
    seeds = {run.seed for run in group.shown}
    again = f" ({len(group.shown)} runs)" if len(seeds) != len(group.shown) else ""
    return Row(
        size=str(group.runs[0].config.get("unroll", "–") if group.layers is None else group.layers),
        method=group.method,
        settings=", ".join(describe(k, v) for k, v in group.settings.items()),
        values=tuple(
            spread(name, [v[name] for v in map(values, group.shown) if name in v]) for name in names
        ),
        paper="–" if paper is None else paper,
        seeds=f"{len(seeds)}{again}",
        iterations=_iterations(group),
        seconds=seconds([run.summary.seconds for run in group.shown if run.summary]),
        unfinished=_unfinished(group),
    )


def _iterations(group: Group) -> str:
    if group.finished:
        return span([run.summary.iterations for run in group.finished if run.summary])
    reached = span([run.last_step for run in group.runs])
    planned = group.runs[0].config.get("iterations")
    return f"{reached} of {planned:,}" if isinstance(planned, int) else reached


def _unfinished(group: Group) -> str:
    missing = len(group.runs) - len(group.finished)
    if not missing:
        return ""
    return f"+ {missing} unfinished" if group.finished else "unfinished"
