"""Runs that differ in nothing but their seed belong together."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from synthgrad.lab.report.runs import Run
from synthgrad.lab.report.settings import describe, differing, settings, unused

# From the standard to the paper's methods; others follow by name.
_ORDER = ("backprop", "bptt", "none", "stale", "dni", "dni-aux", "cdni")


@dataclass(frozen=True)
class Group:
    """The runs of one recipe, by one method, with the same settings.

    Attributes:
        recipe: what was trained.
        layers: as the paper counts them; None where the recipe has no such setting.
        method: what error came back between the layers.
        settings: the settings that the method has a use for and that are not the same in all runs
            of the recipe.
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
        key = json.dumps(settings(run), sort_keys=True, default=str)
        cells.setdefault((run.recipe, run.layers, run.method, key), []).append(run)
    groups = []
    for (recipe, layers, method, _), members in cells.items():
        every = [c[0] for (r, *_), c in cells.items() if r == recipe]
        same = [run for run in every if (run.layers, run.method) == (layers, method)]
        own, idle = settings(members[0]), unused(members[0])
        parts = [method]
        parts += [describe(k, own.get(k)) for k in _telling(differing(same), same) if k not in idle]
        groups.append(
            Group(
                recipe=recipe,
                layers=layers,
                method=method,
                settings={k: own.get(k) for k in differing(every) if k not in idle},
                label=", ".join(parts),
                runs=tuple(sorted(members, key=lambda run: run.seed)),
            )
        )
    recipes = list(dict.fromkeys(group.recipe for group in groups))
    return sorted(groups, key=lambda g: (recipes.index(g.recipe), *_place(g)))


def _telling(names: Sequence[str], cells: Sequence[Run]) -> list[str]:
    """Names enough to tell the cells apart: a table says the rest, and iterations in any case."""
    own = [settings(run) for run in cells]
    needed = list(names)
    last_first = list(reversed(names))
    for name in sorted(last_first, key=lambda name: name != "iterations"):
        others = [other for other in needed if other != name]
        told = {json.dumps([values.get(k) for k in others], default=str) for values in own}
        if len(told) == len(cells):
            needed = others
    return needed


def _place(group: Group) -> tuple[int, int, int, str]:
    order = _ORDER.index(group.method) if group.method in _ORDER else len(_ORDER)
    return group.layers or 0, order, group.runs[0].config.get("unroll", 0), group.label
