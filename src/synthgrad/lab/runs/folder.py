"""The run folder: configuration, metrics, TensorBoard events, checkpoints and the summary."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import warnings
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from synthgrad import checkpoint
from synthgrad.errors import SynthgradWarning
from synthgrad.lab.errors import UNUSABLE, RunError, UsageError, check_path

FILES = ("config.json", "metrics.jsonl", "summary.json")
_FILE = re.compile(r"config\.json|metrics\.jsonl|summary\.json|\.lock|events\.out\.tfevents\..*")
_FOLDER = re.compile(r"checkpoint|stage-\d+")
BEGIN_ANEW = "to begin anew delete the run folder, or give another with --out"
"""What to do about a folder that cannot be gone on with."""
REMEMBERED = 1 << 16
"""Bytes at the end of the metrics that a checkpoint can restore."""


class RunFolder:
    """The files of one run. Nothing is written before :meth:`open`.

    ``config.json`` says how the run went on last, where that may differ. Without it nobody knows
    whose the other files are, so that they are neither used nor lost.

    Args:
        path: the folder; made if it is not there.
        config: what ``config.json`` will say, or has to say already to resume.
        resume: go on with what is there. Without it the folder must not hold a run.
        needs_run: with ``resume``, whether there has to be one, or may be none yet.

    Raises:
        UsageError: the folder cannot be written, holds a run although ``resume`` is off, holds a
            run of another recipe or configuration, part of a run without its configuration, or
            lies in the checkpoints of another; or it holds no run although one is needed.
        RunError: its configuration is broken.
    """

    def __init__(
        self, path: Path, config: dict[str, Any], *, resume: bool, needs_run: bool = False
    ) -> None:
        self.path = path
        self.config = config
        self.metrics = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoint"
        self._config_file = path / "config.json"
        self._events: Any = None
        self._resume = resume
        self._check_kinds()
        self._new = not self._config_file.exists()
        if not self._new:
            self._agree(_read(self._config_file, needs=("recipe",)), resume)
        exists = next(p for p in (path, *path.absolute().parents) if p.exists())
        if not exists.is_dir() or not os.access(exists, os.W_OK | os.X_OK):
            raise UsageError(f"--out: cannot write to {path}: {exists} is not a writable folder")
        if self._new and (parts := self._parts()):
            raise UsageError(
                f"--out: {path} holds part of a run ({', '.join(parts)}) but no config.json, which "
                "says of which one; put that file back, or give another folder"
            )
        if self._new and needs_run:
            raise UsageError(f"--resume: {path} holds no run; leave --resume away to begin one")

    def open(self) -> None:
        """Makes the folder and its configuration file.

        Raises:
            UsageError: the folder cannot be written, or holds by now a run that it did not.
            RunError: the disk is full, or fails.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if self._new and self._config_file.exists():
                self._agree(_read(self._config_file, needs=("recipe",)), self._resume)
            if not self._config_file.exists() or _read(self._config_file) != self.config:
                _write(self._config_file, self.config)
        except OSError as error:
            kind = UsageError if error.errno in UNUSABLE else RunError
            raise kind(f"--out: cannot write to {self.path}: {error.strerror}") from error

    def finished(self) -> dict[str, Any] | None:
        """The summary, if the run is done."""
        path = self.path / "summary.json"
        return _read(path, needs=("metrics", "iterations", "seconds")) if path.exists() else None

    def log(self, step: int, values: dict[str, float]) -> None:
        """Adds one line of metrics, and the same to the TensorBoard event file.

        What is not known yet (NaN) is null in the line, as in the summary: JSON has no word for it.
        """
        with open(self.metrics, "a", encoding="utf-8") as file:
            file.write(_json({"step": step, **values}) + "\n")
        if self._events is None:
            from synthgrad.lab.runs.events import EventFile

            self._events = EventFile(self.path, step)
        self._events.write(step, values)

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Writes a checkpoint that also remembers how long the metrics are, and how they end.

        The metrics come to the disk first: no checkpoint is ahead of them.
        """
        length, end = 0, b""
        if self.metrics.exists():
            with open(self.metrics, "rb") as file:
                os.fsync(file.fileno())
                length = file.seek(0, os.SEEK_END)
                file.seek(max(length - REMEMBERED, 0))
                end = file.read()
        checkpoint.save(
            self.checkpoints,
            step,
            {"run": state, "metrics_bytes": length, "metrics_end": end.decode("latin-1")},
        )

    def load(self) -> dict[str, Any] | None:
        """The newest whole checkpoint's state; the metrics are put back to its moment.

        What was logged later is cut off; what is missing at their end, or is broken there, is
        written again from what the checkpoint remembers.

        Raises:
            RunError: all checkpoints are damaged.
        """
        stored = load_newest(self.checkpoints)
        if stored is None:
            if self.metrics.exists():
                os.truncate(self.metrics, 0)
            return None
        self._repair_metrics(
            stored["metrics_bytes"], stored.get("metrics_end", "").encode("latin-1")
        )
        return stored["run"]

    def _repair_metrics(self, length: int, end: bytes) -> None:
        """Makes the metrics ``length`` bytes that end with ``end`` (empty: not remembered)."""
        there = self.metrics.read_bytes() if self.metrics.exists() else b""
        begins = length - len(end)
        if len(there) >= begins:
            whole = there[:begins] + end
        else:  # more is missing than is remembered
            whole = there[: there.rfind(b"\n") + 1] + end[end.find(b"\n") + 1 :]
            warnings.warn(
                f"{self.metrics} was cut short, and {length - len(whole)} of its {length} bytes "
                "are lost; the run itself is whole",
                SynthgradWarning,
                stacklevel=4,
            )
        if there[: len(whole)] != whole:
            checkpoint.write(self.metrics, whole)
        elif len(there) > len(whole):
            os.truncate(self.metrics, len(whole))

    def abandon(self) -> None:
        """Takes back what :meth:`open` wrote, if nothing came of the run: it is in nobody's way."""
        self.close()
        if self._new and not self._parts():
            self._config_file.unlink(missing_ok=True)

    def keep(self, state: dict[str, Any]) -> None:
        """Leaves a run whose training failed whole: where no checkpoint is, its start is one."""
        if not checkpoint.newest_first(self.checkpoints):
            self.metrics.touch()
            self.save(0, state)

    def finish(self, summary: dict[str, Any]) -> None:
        """Writes the summary: the run is done."""
        _write(self.path / "summary.json", summary)
        self.close()

    def close(self) -> None:
        """Lets go of the event file."""
        if self._events is not None:
            self._events.close()
            self._events = None

    def _check_kinds(self) -> None:
        """Looks whether what is there under a run's names is what a run puts there."""
        check_path("--out", self.path)
        if (run := run_around(self.path)) is not None:
            raise UsageError(f"--out: {self.path} lies among the checkpoints of {run}")
        for part in (*(self.path / name for name in FILES), self.checkpoints):
            wanted = os.path.isdir if part == self.checkpoints else os.path.isfile
            if os.path.lexists(part) and not wanted(part):
                kind = "folder" if part == self.checkpoints else "file"
                raise UsageError(f"--out: {part} is not a {kind}, as in a run it has to be")

    def _parts(self) -> list[str]:
        """What a run has left here besides its configuration."""
        return [part.split("/")[0] for part in _PARTS if any(self.path.glob(part))]

    def _agree(self, found: dict[str, Any], resume: bool) -> None:
        if not resume:
            raise UsageError(
                f"--out: {self.path} already holds a run; give another folder, or --resume"
            )
        here, there = what_counts(self.config), what_counts(found)
        different = sorted(k for k in here | there if here.get(k) != there.get(k))
        if "recipe" in different:  # then all else differs for that reason
            different = ["recipe"]
        if different:
            lines = "; ".join(
                f"{k} is {there.get(k)!r} there and {here.get(k)!r} here" for k in different
            )
            raise UsageError(f"--resume: {self.path} holds another run: {lines}")


_PARTS = (
    "summary.json",
    "metrics.jsonl",
    "events.out.tfevents.*",
    "checkpoint/step-*.pt",
    "stage-*/step-*.pt",
)
_WAITS = ("timeout", "patience", "save_seconds", "interface", "transport")
# Where and how fast a run goes, and for how long it waits, does not make it another run.
_MAY_DIFFER = {
    *("device", "graph", "threads", "checkpoint_every"),
    *(f"pipeline.{name}" for name in _WAITS),
}


def what_counts(config: dict[str, Any]) -> dict[str, Any]:
    """The settings by which runs are told apart; those of a pipeline by their full names."""
    flat = {k: v for k, v in config.items() if k != "pipeline"}
    flat |= {f"pipeline.{k}": v for k, v in config.get("pipeline", {}).items()}
    return {k: v for k, v in flat.items() if k not in _MAY_DIFFER}


def load_newest(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint that is whole, or None where there is none at all.

    Raises:
        RunError: there are checkpoints, and all are damaged.
    """
    state = checkpoint.load(folder)
    if state is None and (paths := checkpoint.newest_first(folder)):
        names = ", ".join(path.name for path in paths)
        raise RunError(f"all checkpoints in {folder} are damaged ({names}); {BEGIN_ANEW}")
    return state


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


def versions() -> dict[str, str]:
    """What made the numbers."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "synthgrad": version("synthgrad"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "gpu": device,
    }


def _read(path: Path, needs: Iterable[str] = ()) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise UsageError(f"--out: {path} is nested too deeply to be a run's") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is not readable JSON: {error}; {BEGIN_ANEW}") from error
    missing = [name for name in needs if not isinstance(found, dict) or name not in found]
    if missing:
        raise RunError(f"{path} is broken: it has no {', '.join(missing)}; {BEGIN_ANEW}")
    return found


def _write(path: Path, value: dict[str, Any]) -> None:
    checkpoint.write(path, (_json(value, indent=2) + "\n").encode())


def _json(value: Any, indent: int | None = None) -> str:
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    """The value with null for every number that is not finite."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
