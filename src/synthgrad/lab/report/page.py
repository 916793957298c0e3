"""The report: one HTML page that needs nothing besides itself."""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from synthgrad import checkpoint
from synthgrad.lab.errors import UsageError
from synthgrad.lab.experiments import methods
from synthgrad.lab.report.errors import ReportError
from synthgrad.lab.report.groups import group
from synthgrad.lab.report.panels import Panel, panels
from synthgrad.lab.report.results import Table, result, table
from synthgrad.lab.report.rounding import number
from synthgrad.lab.report.runs import Run, read_run
from synthgrad.lab.runs.folder import is_a_runs_own


@dataclass(frozen=True)
class Section:
    """Everything about one recipe.

    Attributes:
        recipe: its name.
        table: its results.
        methods: what methods mean here, unless an earlier section says just that.
        panels: its charts.
    """

    recipe: str
    table: Table
    methods: Mapping[str, str]
    panels: tuple[Panel, ...]


def write_report(
    run_dirs: Sequence[Path],
    out: Path,
    title: str = "synthgrad report",
    date: datetime.date | None = None,
) -> Path:
    """Writes a page with the tables and curves of run folders.

    Args:
        run_dirs: run folders, of any recipes, finished or not; one named twice is shown once.
        out: the page, or a folder to put ``report.html`` into.
        title: the page's heading.
        date: what the page is dated, today by default.

    Returns:
        The page's path.

    Raises:
        UsageError: the page would take the place of a run's own file.
        ReportError: a folder is no run folder, a file in it is broken, or the page cannot be
            written.
    """
    unique = {os.path.realpath(folder): Path(folder) for folder in run_dirs}
    runs = [read_run(folder) for folder in unique.values()]
    if not runs:
        raise ReportError("a report needs at least one run folder, got none")
    path = out / "report.html" if out.is_dir() else out
    if is_a_runs_own(path, unique.values()):
        raise UsageError(
            f"--out: {path} is, or would be taken for, a run's own file; give another name"
        )
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("synthgrad.lab.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    environment.globals["result"] = result
    html = environment.get_template("report.html.j2").render(
        title=title,
        date=(date or datetime.date.today()).isoformat(),
        sections=_sections(runs),
        runs=sorted(runs, key=lambda run: (run.recipe, run.layers or 0, run.method, run.seed)),
        facts=_facts(runs),
    )
    try:
        _write(path, html)
    except OSError as error:
        raise ReportError(f"cannot write {path}: {error.strerror}") from error
    return path


def _sections(runs: Sequence[Run]) -> list[Section]:
    sections: list[Section] = []
    for place, (recipe, members) in enumerate(groupby(group(runs), key=lambda g: g.recipe)):
        same = list(members)
        said = [item for section in sections for item in section.methods.items()]
        known = methods(recipe)
        meant = {one.method: known[one.method] for one in same if one.method in known}
        new = {k: v for k, v in meant.items() if (k, v) not in said}
        sections.append(Section(recipe, table(same), new, tuple(panels(same, f"s{place}"))))
    return sections


def _facts(runs: Sequence[Run]) -> dict[str, str]:
    """What made the numbers; all values of a fact where runs differ."""
    facts: dict[str, dict[str, None]] = {}
    for run in runs:
        for name, value in run.summary.versions.items() if run.summary else ():
            facts.setdefault(name, {})[value] = None
    return {name: " / ".join(found) for name, found in facts.items()}


def _write(path: Path, html: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Under its name only when it is whole: somebody may have the last one open.
    checkpoint.write(path, html.encode(errors="backslashreplace"))  # a name may be no text
