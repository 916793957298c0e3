"""A whole table or figure of the paper: its grid of runs, and a report on them."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Container, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

from synthgrad.errors import SynthgradError
from synthgrad.lab.errors import RunError, UsageError
from synthgrad.lab.experiments import ALL
from synthgrad.lab.experiments.images import Schedule
from synthgrad.lab.report import write_report
from synthgrad.lab.runs.folder import RunFolder
from synthgrad.lab.runs.jobs import Job, in_turn, side_by_side
from synthgrad.lab.runs.progress import outcome
from synthgrad.lab.runs.run import pick_device, run
from synthgrad.lab.runs.signals import Stopped
from synthgrad.lab.settings import MOST_THREADS, check_range
from synthgrad.lab.tables import DRAWN_BY, TABLES, Cell, PaperTable


@dataclass(frozen=True)
class Planned:
    """A cell with a seed: one run.

    Attributes:
        name: the cell's, with the seed.
        recipe: the recipe's name.
        config: all settings.
        folder: where it goes.
    """

    name: str
    recipe: str
    config: Any
    folder: Path


def reproduce(
    name: str,
    out: Path,
    *,
    jobs: int = 1,
    budget: float | None = None,
    schedule: Schedule = "ours",
    seeds: int = 1,
    only: str = "*",
    data_root: Path | None = None,
    threads: int = 0,
    device: str = "auto",
) -> Path:
    """Runs what a table still lacks and writes a report on all of it.

    Runs that are done stay as they are, and those half done go on where they were. A run that
    fails does not keep the others from being done.

    Args:
        name: one of :data:`synthgrad.lab.tables.TABLES`.
        out: a run goes to ``out/name/CELL-seedK``, the report to ``out/name/report.html``.
        jobs: runs at a time, each in a process of its own where there is more than one.
        budget: the share of the paper's iterations; None for as many as suit each cell.
        schedule: as in :class:`synthgrad.lab.experiments.images.FeedForwardConfig`.
        seeds: runs of each cell, from seed 0.
        only: the cells whose names this shell pattern matches, as in "4-*". The report is on all
            that the folder holds of the table.
        data_root: where the data sets are.
        threads: CPU threads of a run; 0 divides the processor's cores by ``jobs``.
        device: as in :class:`synthgrad.lab.experiments.images.FeedForwardConfig`.

    Returns:
        The report's path, which is also printed.

    Raises:
        UsageError: an argument cannot be used; or a folder holds a run with other settings.
        RunError: runs have failed; names them. The report on the others is written.
        Stopped: a signal came; the same call goes on.
    """
    table = _table(name)
    _check(jobs=jobs, seeds=seeds, threads=threads, budget=budget)
    cells = _cells(table, only)
    pick_device(device)
    threads = threads or max(1, (os.cpu_count() or 1) // jobs)
    values = {"schedule": schedule, "threads": threads, "device": device}
    plan = _plan(cells, out / name, budget, seeds, values)
    done, open_, failed = _look(plan)
    print(f"{name}: {len(plan)} runs, {done} of them done already", file=sys.stderr)
    if open_:
        # Once, before several processes look for the same files, or download them.
        recipes = (ALL[planned.recipe] for planned in open_)
        for recipe in {recipe.data: recipe for recipe in recipes}.values():
            recipe.load(data_root, torch.device("cpu"))
    failed |= _do(open_, jobs, data_root)
    page = out / name / "report.html"
    reported = _reported(table, out / name, without=failed)
    if reported:
        write_report(reported, page, title=f"{name}: {table.about}")
        print(f"Report: {page.resolve()}")
    if failed:
        lines = "".join(f"\n  {planned}: {why}" for planned, why in failed.items())
        raise RunError(f"{len(failed)} of {len(plan)} runs failed:{lines}")
    return page


def run_cell(planned: Planned, data_root: Path | None) -> dict[str, Any]:
    """One run, from its start or from where it was stopped; returns its summary."""
    return run(
        ALL[planned.recipe],
        planned.config,
        planned.folder,
        data_root=data_root,
        resume=(planned.folder / "config.json").exists(),
        label=planned.name,
    )


def _table(name: str) -> PaperTable:
    if name in DRAWN_BY:
        raise UsageError(f"no table is called {name!r}; it is drawn by {', '.join(DRAWN_BY[name])}")
    if name not in TABLES:
        raise UsageError(f"no table is called {name!r}; there are {', '.join(TABLES)}")
    return TABLES[name]


def _cells(table: PaperTable, only: str) -> list[Cell]:
    cells = [cell for cell in table.cells if fnmatchcase(cell.name, only)]
    if not cells:
        names = ", ".join(cell.name for cell in table.cells)
        raise UsageError(f"--only: no cell of {table.name} matches {only!r}; there are {names}")
    return cells


def _reported(table: PaperTable, folder: Path, without: Container[str]) -> list[Path]:
    """The run folders of the table's cells, by whichever call they were made."""
    return [
        config.parent
        for cell in table.cells
        for config in sorted(folder.glob(f"{cell.name}-seed*/config.json"))
        if config.parent.name not in without
    ]


def _check(*, jobs: int, seeds: int, threads: int, budget: float | None) -> None:
    check_range("--jobs", jobs, 1, 1024)
    check_range("--seeds", seeds, 1, 1000)
    check_range("--threads", threads, 0, MOST_THREADS)
    if budget is not None and not 0 < budget <= 1000:
        raise UsageError(f"--budget: expected a share above 0, such as 0.01, got {budget}")


def _plan(
    cells: Sequence[Cell],
    folder: Path,
    budget: float | None,
    seeds: int,
    values: dict[str, Any],
) -> list[Planned]:
    """All runs of the cells; every cell with the first seed, then with the next."""
    return [
        Planned(
            name := f"{cell.name}-seed{seed}",
            cell.recipe,
            cell.config(budget, seed=seed, **values),
            folder / name,
        )
        for seed in range(seeds)
        for cell in cells
    ]


def _look(plan: Sequence[Planned]) -> tuple[int, list[Planned], dict[str, str]]:
    """How many runs are done, which are to be done, and which cannot be, for a broken folder."""
    done = 0
    open_: list[Planned] = []
    failed: dict[str, str] = {}
    for planned in plan:
        config = {"recipe": planned.recipe, **planned.config.to_json()}
        try:
            if RunFolder(planned.folder, config, resume=True).finished() is None:
                open_.append(planned)
            else:
                done += 1
        except UsageError as error:
            why = str(error)
            if not why.startswith("--resume: "):  # the folder itself, whatever the settings
                raise
            why = why.removeprefix("--resume: ")
            raise UsageError(f"--out: {why}; give another --out, or the same settings") from None
        except RunError as error:
            failed[planned.name] = str(error)
    return done, open_, failed


def _do(open_: Sequence[Planned], at_once: int, data_root: Path | None) -> dict[str, str]:
    """Does the runs; says of those that failed why."""
    todo = [
        Job(planned.name, run_cell, {"planned": planned, "data_root": data_root})
        for planned in open_
    ]
    failed: dict[str, str] = {}
    try:
        for job, result in in_turn(todo) if at_once == 1 else side_by_side(todo, at_once):
            if isinstance(result, Exception):
                if not isinstance(result, SynthgradError):
                    traceback.print_exception(result)
                failed[job.name] = f"{type(result).__name__}: {result}"
                print(f"{job.name}: failed: {result}", file=sys.stderr, flush=True)
            else:
                print(f"{job.name}: {outcome(result)}", flush=True)
    except Stopped as stopped:
        raise Stopped(f"{stopped}; the same command goes on from there") from None
    return failed
