"""The command line: ``synthgrad COMMAND``."""

from __future__ import annotations

import io
import os
import signal
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, make_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import tyro

from synthgrad.errors import SynthgradError, SynthgradWarning
from synthgrad.lab.errors import UNUSABLE, RunError, UsageError, check_path
from synthgrad.lab.experiment import Experiment
from synthgrad.lab.experiments import ALL
from synthgrad.lab.experiments.images import Schedule
from synthgrad.lab.runs.memory import is_out_of_memory
from synthgrad.lab.runs.progress import outcome
from synthgrad.lab.runs.signals import Stopped
from synthgrad.lab.stages.commands import COMMANDS
from synthgrad.lab.tables import TABLES

app = tyro.extras.SubcommandApp()
for command in COMMANDS:  # launch, stage and store
    app.command(command)

_TABLES = f"One of {', '.join(TABLES)}."


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """One recipe with its options."""

    recipe: tyro.conf.Suppress[str]
    data_root: Path | None = None
    """Where the data sets are, in torchvision's layout; by default $SYNTHGRAD_DATA."""
    out: Path | None = None
    """The run folder; by default one under runs/, named by recipe, method and seed."""
    resume: bool = False
    """Go on with the run that the folder holds."""


def _options(recipe: Experiment[Any, Any]) -> RunOptions:
    """A recipe's options: those of every run, and the recipe's settings."""
    config = recipe.defaults
    # A class for each kind of settings, since options are read off the annotations.
    kind = make_dataclass(
        "RunOptions",
        [("config", type(config))],
        bases=(RunOptions,),
        frozen=True,
        kw_only=True,
    )
    return kind(recipe=recipe.name, config=config)


_RunOptions = tyro.extras.subcommand_type_from_defaults(
    {name: _options(recipe) for name, recipe in ALL.items()},
    {name: f"{recipe.stands_for}." for name, recipe in ALL.items()},
    prefix_names=False,
)


@app.command
def demo(out: Path | None = None, seed: int = 0) -> None:
    """The main job: four methods side by side on the embedded digits, and a report.

    Args:
        out: Where the run folders and the report go; by default a new folder under runs/.
        seed: Of the weights and the order of the examples.
    """
    from synthgrad.lab.demo import run_demo

    run_demo(out, seed)


@app.command(name="list")
def list_recipes() -> None:
    """The recipes, each with what it stands for in the paper, and the tables to reproduce."""
    from rich.console import Console
    from rich.table import Table

    recipes = Table("recipe", "stands for", "data", box=None)
    for recipe in ALL.values():
        recipes.add_row(recipe.name, recipe.stands_for, recipe.data)
    tables = Table("table", "what it is", "cells", box=None)
    for table in TABLES.values():
        tables.add_row(table.name, table.about, str(len(table.cells)))
    console = Console()
    console.print(recipes)
    console.print()
    console.print(tables)


@app.command
def run(options: tyro.conf.OmitArgPrefixes[_RunOptions]) -> None:  # type: ignore[valid-type]
    """Run one recipe into a run folder."""
    from synthgrad.lab.runs.run import run as run_recipe

    chosen: Any = options
    recipe = ALL[chosen.recipe]
    out = chosen.out or Path("runs") / chosen.config.folder_name(recipe.name)
    check_path("--out", out)
    if not (chosen.resume and (out / "config.json").exists()):  # an older run may have any
        chosen.config.check_effect(recipe.defaults)
    done = (out / "summary.json").exists()
    summary = run_recipe(
        recipe, chosen.config, out, data_root=chosen.data_root, resume=chosen.resume
    )
    where = f"it was finished already, in {out}" if done else f"written to {out}"
    print(f"{recipe.name} {chosen.config.method}: {outcome(summary)}; {where}")


@app.command
def reproduce(
    table: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TABLE", help=_TABLES)],
    jobs: int = 1,
    budget: float | None = None,
    schedule: Schedule = "ours",
    seeds: int = 1,
    only: str = "*",
    out: Path = Path("runs"),
    data_root: Path | None = None,
    threads: int = 0,
    device: str = "auto",
) -> None:
    """A whole table or figure: its grid of runs, and a report. Given again, it goes on.

    Runs that are done are kept, and those half done go on where they were stopped.

    Args:
        table: What to reproduce.
        jobs: Runs at a time, each in a process of its own.
        budget: The share of the paper's iterations; by default as many as suit each cell.
        schedule: What suits a method: "ours", or the "paper"'s rates and iterations (--budget may
            say fewer) and, of recurrent networks, its sizes, scale and history too.
        seeds: Runs of each cell, from seed 0.
        only: The cells whose names match this pattern, as in "4-*".
        out: Where the table's folder goes, with a run folder for each cell and seed.
        data_root: Where the data sets are, in torchvision's layout; by default $SYNTHGRAD_DATA.
        threads: CPU threads of a run; 0 divides the processor's cores by the jobs.
        device: Where to run: cpu, cuda, cuda:1, or auto for a GPU where there is one.
    """
    from synthgrad.lab.reproduce import reproduce

    reproduce(
        table,
        out,
        jobs=jobs,
        budget=budget,
        schedule=schedule,
        seeds=seeds,
        only=only,
        data_root=data_root,
        threads=threads,
        device=device,
    )


@app.command
def report(runs: tyro.conf.Positional[tuple[Path, ...]], out: Path = Path("report.html")) -> None:
    """Tables and curves from run folders, as one self-contained HTML page.

    Args:
        runs: Run folders, or folders of run folders.
        out: The page.
    """
    from synthgrad.lab.report import write_report

    if not runs:
        raise UsageError("report needs at least one run folder")
    for path in (*runs, out):
        check_path("report", path)
    folders = [folder for path in runs for folder in _run_folders(path)]
    print(f"written to {write_report(folders, out)}")


def _benchmarks() -> Mapping[str, Any]:
    """The benchmarks, by name: they lie beside ``src/`` in a clone, and in no wheel."""
    source = Path(__file__).parents[2]
    if source.name != "src" or not (source.parent / "benchmarks" / "commands.py").is_file():
        return {}
    sys.path.insert(0, str(source.parent))
    from benchmarks.commands import BENCHES

    return BENCHES


BENCHES = _benchmarks()
_Bench = BENCHES and tyro.extras.subcommand_type_from_defaults(
    dict(BENCHES),
    {name: type(one).__doc__ or "" for name, one in BENCHES.items()},
    prefix_names=False,
)


@app.command
def bench(which: tyro.conf.OmitArgPrefixes[_Bench]) -> None:  # type: ignore[valid-type]
    """Benchmarks; each compares within one run and prints ratios."""
    chosen: Any = which
    chosen.measure()


def _run_folders(path: Path) -> list[Path]:
    """The run folders that a path stands for: itself, or those in it."""
    inside = sorted(config.parent for config in path.glob("*/config.json"))
    return inside if inside and not (path / "config.json").exists() else [path]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and ends the process with its exit code.

    0: success. 1: a run failed, for example for want of data. 2: an argument cannot be used.
    130: stopped by a signal, with a checkpoint where there is something to keep.
    """
    if arguments is not None:
        sys.exit(_run(arguments))
    code = _run(sys.argv[1:])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done: nothing is left to be stopped
    sys.exit(code)


def _run(arguments: Sequence[str]) -> int:
    warnings.showwarning = _show_warning
    for stream in (sys.stdout, sys.stderr):  # a path may hold what no encoding has
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    config = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes)
    try:
        try:
            _check_characters(arguments)
            _check_benchmarks(arguments)
            app.cli(args=arguments, prog="synthgrad", config=config)
        finally:  # also after a help text, which ends in SystemExit
            _flush()
    except SynthgradError as error:
        return _say(error, 2 if isinstance(error, UsageError) else 1)
    except Stopped as stopped:
        return _say(stopped, 130)
    except KeyboardInterrupt:
        return _say("stopped", 130)
    except BrokenPipeError:  # whoever read our output has gone, as after "| head"
        return 1
    except OSError as error:
        name = "" if error.filename is None else f"{error.filename}: "
        code = 2 if error.errno in UNUSABLE else 1
        return _say(f"{name}{error.strerror or error}", code)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return _say(f"out of memory: {(str(error).splitlines() or [''])[0]}", 1)
    return 0


def _say(text: object, code: int) -> int:
    """Says on one line how the command ended; returns ``code``."""
    line = " ".join(str(text).split("\n")) if code == 2 else str(text)
    print(f"synthgrad: {line}", file=sys.stderr)
    return code


def _check_characters(arguments: Sequence[str]) -> None:
    """Refuses what no file name and no option can hold.

    Raises:
        UsageError: an argument is empty, has a NUL, or half of a surrogate pair.
    """
    for before, argument in pairwise(("", *arguments)):
        if not argument:
            raise UsageError("an argument is empty" + (f": the one after {before}" * bool(before)))
        try:
            os.fsencode(argument)
        except UnicodeEncodeError:
            raise UsageError(f"an argument is no text: {argument!a}") from None
        if "\0" in argument:
            raise UsageError(f"an argument has a NUL character: {argument!a}")


def _check_benchmarks(arguments: Sequence[str]) -> None:
    """Says of ``bench`` where it can be had, whatever else was asked of it.

    Raises:
        RunError: there are no benchmarks here.
    """
    if not BENCHES and list(arguments[:1]) == ["bench"]:
        raise RunError(
            "bench: the benchmarks are not part of the installed package; they lie in benchmarks/ "
            'of a clone of synthgrad, where "make demo" or pip install -e ".[lab]" makes a command '
            "that finds them"
        )


def _flush() -> None:
    """Writes out what was printed; what cannot be is not tried again when the process ends.

    Raises:
        OSError: it cannot.
    """
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError):  # where it is no file
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def _show_warning(message: Warning | str, category: type[Warning], *_: Any) -> None:
    if issubclass(category, SynthgradWarning):
        print(f"synthgrad: warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    main()
