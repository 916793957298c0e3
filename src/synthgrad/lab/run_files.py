"""Which files are a run's own, so that nothing else is written over them or among them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from synthgrad.lab.errors import UsageError

FILES = ("config.json", "metrics.jsonl", "summary.json")
_FILE = re.compile(r"config\.json|metrics\.jsonl|summary\.json|\.lock|events\.out\.tfevents\..*")
_FOLDER = re.compile(r"checkpoint|stage-\d+")


def check_path(option: str, path: Path) -> None:
    """Looks whether a path, which need not exist, can be one at all.

    Raises:
        UsageError: it is too long, a loop of links, or out of reach.
    """
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise UsageError(f"{option}: {path} cannot be used: {error.strerror}") from None


def run_around(path: Path) -> Path | None:
    """The run among whose checkpoints a path lies, which need not exist; None for none."""
    real = Path(os.path.realpath(path))
    for folder in (real, *real.parents):
        if _FOLDER.fullmatch(folder.name) and (folder.parent / "config.json").exists():
            return folder.parent
    return None


def is_a_runs_own(path: Path, runs: Iterable[Path] = ()) -> bool:
    """Whether a path, which need not exist, is or would be taken for a file of a run.

    By its name, by where it lies, also through links, and as another name of a file of ``runs``.
    """
    real = Path(os.path.realpath(path))
    return (
        any(_FILE.fullmatch(name) for name in (path.name, real.name))
        or run_around(path) is not None
        or (real.is_file() and any(real.samefile(own) for run in runs for own in _files(run)))
    )


def _files(run: Path) -> Iterator[Path]:
    """The files of one run folder."""
    for path in run.iterdir():
        if path.is_file() and _FILE.fullmatch(path.name):
            yield path
        elif path.is_dir() and _FOLDER.fullmatch(path.name):
            yield from (inside for inside in path.iterdir() if inside.is_file())
