"""The results table: one row for each group of runs, aggregated over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from synthgrad.lab.report.groups import Group
from synthgrad.lab.report.paper import TABLE_1, paper_number
from synthgrad.lab.report.rounding import number, seconds, span, spread
from synthgrad.lab.report.runs import Run
from synthgrad.lab.report.settings import describe
from synthgrad.lab.report.titles import METRICS, in_order, title

# How large a recurrent run is.
_SIZES = ("units", "batch_size", "characters")


@dataclass(frozen=True)
class Row:
    """One group of runs.

    Attributes:
        size: layers as the paper counts them; for recurrent networks, the steps of an unroll.
        method: what error came back between the layers.
        settings: the settings that tell rows apart and have no column of their own.
        values: mean ± sample standard deviation of each metric, in the table's order.
        paper: the paper's number for it, or a dash.
        seeds: how many seeds the numbers are of.
        iterations: training steps, each of them one update.
        seconds: mean wall-clock time.
        updates: how often a layer or network was updated, the least and the most.
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
    updates: str
    unfinished: str


@dataclass(frozen=True)
class Table:
    """The rows of one recipe.

    Attributes:
        size: the title of the column that ``Row.size`` fills.
        metrics: the titles of the columns that ``Row.values`` fill.
        rows: by layers and method.
        paper: what the paper's number is, where any row has one, or nothing.
        has_settings: whether any row has settings to tell it by.
        has_updates: whether any row says how often layers were updated.
        has_best: whether some numbers are of the best model and others of the last.
    """

    size: str
    metrics: tuple[str, ...]
    rows: tuple[Row, ...]
    paper: str
    has_settings: bool
    has_updates: bool
    has_best: bool


def table(groups: Sequence[Group]) -> Table:
    """The table of one recipe's groups."""
    runs = [run for group in groups for run in group.runs]
    names = in_order(list({name: None for run in runs for name in values(run)}))
    rows = tuple(_row(group, names) for group in groups)
    return Table(
        size="Unroll" if all(group.layers is None for group in groups) else "Layers",
        metrics=tuple(title(name, runs) for name in names),
        rows=rows,
        paper=_about_paper(groups) if any(row.paper != "–" for row in rows) else "",
        has_settings=any(row.settings for row in rows),
        has_updates=any(row.updates != "–" for row in rows),
        has_best="test_bpc" in names,
    )


def _about_paper(groups: Sequence[Group]) -> str:
    """What the paper's numbers stand for, and how our networks differ."""
    if groups[0].recipe not in TABLE_1:
        return (
            "its number for this task, depth, method and interfaces, of networks of the paper's "
            "sizes after 500,000 iterations"
        )
    configs = [group.runs[0].config for group in groups]
    sizes = [
        describe(name, configs[0][name])
        for name in _SIZES
        if name in configs[0] and all(c.get(name) == configs[0][name] for c in configs)
    ]
    ours = f"; ours have {', '.join(sizes)}" if sizes else ""
    return (
        "its number in Table 1 for this task, method and unroll, of networks of the paper's sizes "
        f"after at most 2,500,000 iterations{ours}"
    )


def values(run: Run) -> dict[str, float]:
    """A run's final numbers, or the last that it logged while it is unfinished."""
    if run.summary is not None:
        return dict(run.summary.metrics)
    return {name: series[max(series)] for name, series in run.series.items()}


def result(run: Run) -> str:
    """A run's foremost number, with its name, or a dash; of two networks the numbers of both."""
    found = values(run)
    name = next((name for name, metric in METRICS.items() if metric.title and name in found), None)
    if name is None:
        return "–"
    words, _, unit = title(name, [run]).partition(", ")
    said = f"{words} {number(name, found[name])}{unit}"
    if name == "test_error_a" and "test_error_b" in found:
        said += f", of network B {number(name, found['test_error_b'])}{unit}"
    return said


def _row(group: Group, names: Sequence[str]) -> Row:
    paper = paper_number(group.recipe, group.layers, group.method, group.runs[0].config)
    seeds = {run.seed for run in group.shown}
    again = f" ({len(group.shown)} runs)" if len(seeds) != len(group.shown) else ""
    said = _said(group)
    return Row(
        size=str(group.runs[0].config.get("unroll", "–") if group.layers is None else group.layers),
        method=group.method,
        settings=", ".join(describe(k, v) for k, v in group.settings.items() if k not in said),
        values=tuple(_over_seeds(group, name) for name in names),
        paper="–" if paper is None else paper,
        seeds=f"{len(seeds)}{again}",
        iterations=_iterations(group),
        seconds=seconds([run.summary.seconds for run in group.shown if run.summary]),
        updates=_updates(group),
        unfinished=_unfinished(group),
    )


def _over_seeds(group: Group, name: str) -> str:
    """A metric's mean and spread; a seed that was run twice counts once, with the mean."""
    by_seed: dict[int, list[float]] = {}
    for run in group.shown:
        if (value := values(run).get(name)) is not None:
            by_seed.setdefault(run.seed, []).append(value)
    if name == "samples":
        return span([round(n) for found in by_seed.values() for n in found]) if by_seed else "–"
    seeds = len({run.seed for run in group.shown})
    some = f" ({len(by_seed)} of {seeds})" if 0 < len(by_seed) < seeds else ""
    return spread(name, [sum(found) / len(found) for found in by_seed.values()]) + some


def _said(group: Group) -> set[str]:
    """The settings that other columns say."""
    said = {"unroll"} if group.layers is None else set()
    done = {run.summary.iterations for run in group.finished if run.summary}
    if done <= {group.runs[0].config.get("iterations")}:  # none stopped early
        said.add("iterations")
    return said


def _updates(group: Group) -> str:
    counts = [n for run in group.finished if run.summary for n in run.summary.updates.values()]
    return span(counts) if counts else "–"


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
