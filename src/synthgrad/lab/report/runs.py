"""Run folders as plain data."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from synthgrad.lab.errors import UsageError
from synthgrad.lab.report.errors import ReportError

# One metric's values by step, in the order of the steps.
Series = dict[int, float]


@dataclass(frozen=True)
class Summary:
    """What a run that is done says of itself.

    Attributes:
        iterations: training steps done; each is one update.
        seconds: how long they took.
        metrics: final numbers by name; error rates in percent.
        versions: what made the numbers, by name.
        updates: how often each layer or network was updated, where that is counted.
        levels: of a task that grows longer as it is solved, the lengths solved, by the samples
            read until then; None where there are no levels.
    """

    iterations: int
    seconds: float
    metrics: Mapping[str, float]
    versions: Mapping[str, str]
    updates: Mapping[str, int]
    levels: Series | None


@dataclass(frozen=True)
class Run:
    """One run folder.

    Attributes:
        path: the folder.
        recipe: what was trained.
        method: what error came back between its layers.
        seed: of its weights and the order of its examples.
        layers: as the paper counts them; None where the recipe has no such setting.
        config: all settings.
        series: every metric that was logged, by name and then by step.
        summary: None while the run is unfinished.
    """

    path: Path
    recipe: str
    method: str
    seed: int
    layers: int | None
    config: Mapping[str, Any]
    series: Mapping[str, Series]
    summary: Summary | None

    @property
    def last_step(self) -> int:
        """The last step that was logged, or 0."""
        return max((max(values) for values in self.series.values()), default=0)


class _ConfigFile(BaseModel):
    model_config = ConfigDict(extra="allow")

    recipe: str
    method: str
    seed: int
    layers: int | None = None


class _Final(BaseModel):
    model_config = ConfigDict(extra="allow")

    updates: dict[str, int] = {}
    levels: list[tuple[int, float]] | None = None


class _SummaryFile(BaseModel):
    iterations: int
    seconds: float
    metrics: _Final
    versions: dict[str, Any] = {}


def read_run(folder: Path) -> Run:
    """Reads one run folder, finished or not.

    Raises:
        ReportError: it is no run folder, or a file in it is broken; names the file.
    """
    if not folder.is_dir():
        raise ReportError(f"{folder} is not a folder, expected a run folder")
    if not (folder / "config.json").exists():
        raise ReportError(f"{folder} is not a run folder: it has no config.json")
    config = _read(folder / "config.json", _ConfigFile)
    summary = None
    if (folder / "summary.json").exists():
        found = _read(folder / "summary.json", _SummaryFile)
        final = found.metrics
        summary = Summary(
            iterations=found.iterations,
            seconds=found.seconds,
            metrics={k: float(v) for k, v in (final.model_extra or {}).items() if _is_number(v)},
            versions={k: str(v) for k, v in found.versions.items()},
            updates=final.updates,
            levels=None if final.levels is None else dict(final.levels),
        )
    return Run(
        path=folder,
        recipe=config.recipe,
        method=config.method,
        seed=config.seed,
        layers=config.layers,
        config=config.model_dump(),
        series=_read_metrics(folder / "metrics.jsonl"),
        summary=summary,
    )


_File = TypeVar("_File", bound=BaseModel)


def _read(path: Path, kind: type[_File]) -> _File:
    _check_kind(path)
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ReportError(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if "recursion" in first["msg"]:
            raise UsageError(f"{path} is nested too deeply to be a run's") from None
        where = "".join(f"{part}: " for part in first["loc"])
        raise ReportError(f"{path} is broken: {where}{first['msg']}") from error


def _check_kind(path: Path) -> None:
    if os.path.lexists(path) and not path.is_file():
        raise UsageError(f"{path} is not a file, as in a run it has to be")


def _read_metrics(path: Path) -> dict[str, Series]:
    _check_kind(path)
    try:
        lines = path.read_bytes().split(b"\n") if path.exists() else []
    except OSError as error:
        raise ReportError(f"{path} cannot be read: {error.strerror}") from error
    series: dict[str, Series] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            logged = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                break  # no newline at its end: the process was killed while it wrote
            raise ReportError(f"{path}, line {number}, is broken: {error}") from error
        step = logged.get("step") if isinstance(logged, dict) else None
        if not isinstance(step, int):
            raise ReportError(
                f"{path}, line {number}, is broken: expected an object with a whole number as "
                f'its "step", got {line[:80].decode(errors="replace")}'
            )
        for name, value in logged.items():
            if name != "step" and _is_number(value):
                # A run that was stopped and resumed may log a step twice: the later one counts.
                series.setdefault(name, {})[step] = float(value)
    return {name: dict(sorted(values.items())) for name, values in series.items()}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
