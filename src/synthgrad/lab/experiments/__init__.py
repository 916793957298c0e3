"""The experiments: a kind is one file here, and one row of :data:`ALL`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from synthgrad.lab.experiment import Axis, Experiment, Metric
from synthgrad.lab.experiments import copying, image_recipes, multirate, text

ALL: dict[str, Experiment[Any, Any]] = {
    **image_recipes.RECIPES,
    **copying.RECIPES,
    **text.RECIPES,
    **multirate.RECIPES,
}
"""All recipes, by name."""


def metrics(recipe: str | None = None) -> Mapping[str, Metric]:
    """A recipe's metrics by name, in the order of its table; those of all for None or unknown."""
    return {metric.name: metric for one in _meant(recipe) for metric in one.metrics}


def charts(recipe: str | None = None) -> tuple[Axis, ...]:
    """What a report draws of a recipe, in its order; or of all."""
    return tuple(dict.fromkeys(axis for one in _meant(recipe) for axis in one.charts))


def methods(recipe: str | None = None) -> Mapping[str, str]:
    """A recipe's methods in order, each with what comes back by it; or those of all."""
    found: dict[str, str] = {}
    for one in _meant(recipe):
        for name, said in one.methods.items():
            found.setdefault(name, said)
    return found


def _meant(recipe: str | None) -> tuple[Experiment[Any, Any], ...]:
    return (ALL[recipe],) if recipe in ALL else tuple(ALL.values())
