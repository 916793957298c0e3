"""Which of a run's settings tell it from other runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from synthgrad.lab.experiments import ALL
from synthgrad.lab.report.runs import Run
from synthgrad.lab.runs.folder import what_counts

# What a group is named by, and what has no influence on a run's numbers. Iterations are settled
# when a run is saved: the samples that they may have come from say nothing more.
_NAMED = {"recipe", "layers", "method", "seed"}
_WITHOUT_INFLUENCE = {"eval_every", "samples", "out", "data_root"}

# What backprop must leave as it is, having no interfaces.
_AS_IT_IS = {"unlock", "p_update"}


def unused(run: Run) -> set[str]:
    """The settings that are in the run's configuration and do nothing in it."""
    found = _AS_IT_IS if run.method == "backprop" else set()
    if run.recipe not in ALL:
        return found
    idle = {
        name.rstrip("_")
        for name, (other, among) in ALL[run.recipe].defaults.only_with.items()
        if run.config.get(other) not in (*among, None)
    }
    return found | idle


def settings(run: Run) -> dict[str, Any]:
    """The settings that have an influence on the run's numbers, but for its method and seed."""
    without = _NAMED | _WITHOUT_INFLUENCE | unused(run)
    if run.config.get("patience"):  # evaluations decide when training stops
        without -= {"eval_every"}
    return {k: v for k, v in what_counts(dict(run.config)).items() if k not in without}


def differing(runs: Sequence[Run]) -> list[str]:
    """The settings that are not the same in all of the runs that have a use for them."""
    every = [(settings(run), unused(run)) for run in runs]
    found = []
    for name in dict.fromkeys(name for own, _ in every for name in own):
        values = [own.get(name) for own, idle in every if name not in idle]
        if any(value != values[0] for value in values):
            found.append(name)
    return found


def describe(name: str, value: Any) -> str:
    """A setting as a reader would say it."""
    words = name.strip("_").replace("_", " ").replace(".", " ")
    if value is None:
        return f"{words} default"
    if isinstance(value, list):
        value = "×".join(map(str, value)) or "none"
    if isinstance(value, float):
        value = f"{value:.4g}"  # a rate that follows from the unroll has seventeen digits
    return f"{words} {value}"
