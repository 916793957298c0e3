"""Runs that differ in nothing but their seed belong together."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from synthgrad.lab.report.runs import Run

# What a group is named by, and what has no influence on a run's numbers.
_NAMED = {"recipe", "layers", "method", "seed"}
_WITHOUT_INFLUENCE = {"checkpoint_every", "eval_every", "out", "data_root"}

# From the standard to the paper's methods, with what comes back; others follow by name.
METHODS = {
    "backprop": "the true error comes back",
    "bptt": "the true error comes back, from within the unroll",
    "none": "no error comes back between layers",
    "stale": "an average of past errors",
    "dni": "a synthetic gradient",
    "dni-aux": "a synthetic gradient, which the network also learns to foresee",
    "cdni": "a synthetic gradient from a model that also sees the label",
}
_ORDER = list(METHODS)


@dataclass(frozen=True)
class Group:
    """The runs of one recipe, by one method, with the same settings.

    Attributes:
        recipe: what was trained.
        layers: as the paper counts them; None where the recipe has no such setting.
        method: what error came back between the layers.
        settings: the settings that are not the same in all runs of the recipe.
        label: the method, and those settings that tell it from the same method with others.
        runs: one or more, by seed.
    """

    recipe: str
    layers: int | None
    method: str
    settings: Mapping[str, Any]
    label: str
    runs: tuple[Run, ...]

    @property
    def finished(self) -> tuple[Run, ...]:
        """The runs that are done."""
        return tuple(run for run in self.runs if run.summary is not None)

    @property
    def shown(self) -> tuple[Run, ...]:
        """The runs whose numbers count: those that are done, or else all there are."""
        return self.finished or self.runs


def group(runs: Iterable[Run]) -> list[Group]:
    """Groups runs; recipes in the order in which they came, then by layers and method."""
    cells: dict[tuple[str, int | None, str, str], list[Run]] = {}
    for run in runs:
        key = json.dumps(_settings(run), sort_keys=True, default=str)
        cells.setdefault((run.recipe, run.layers, run.method, key), []).append(run)
    groups = []
    for (recipe, layers, method, _), members in cells.items():
        every = [c[0] for (r, *_), c in cells.items() if r == recipe]
        same = [run for run in every if (run.layers, run.method) == (layers, method)]
        own = _settings(members[0])
        parts = [method, *(describe(k, own.get(k)) for k in _differing(same))]
        groups.append(
            Group(
                recipe=recipe,
                layers=layers,
                method=method,
                settings={k: own.get(k) for k in _differing(every)},
                label=", ".join(parts),
                runs=tuple(sorted(members, key=lambda run: run.seed)),
            )
        )
    recipes = list(dict.fromkeys(group.recipe for group in groups))
    return sorted(groups, key=lambda g: (recipes.index(g.recipe), *_place(g)))


def describe(name: str, value: Any) -> str:
    """A setting as a reader would say it."""
    words = name.strip("_").replace("_", " ")
    if value is None:
        return f"{words} default"
    if isinstance(value, list):
        value = "×".join(map(str, value)) or "none"
    return f"{words} {value}"


def _settings(run: Run) -> dict[str, Any]:
    return {k: v for k, v in run.config.items() if k not in _NAMED | _WITHOUT_INFLUENCE}


def _differing(runs: Sequence[Run]) -> list[str]:
    names = dict.fromkeys(name for run in runs for name in _settings(run))
    return [
        name for name in names if any(r.config.get(name) != runs[0].config.get(name) for r in runs)
    ]


def _place(group: Group) -> tuple[int, int, str]:
    order = _ORDER.index(group.method) if group.method in _ORDER else len(_ORDER)
    return group.layers or 0, order, group.label
