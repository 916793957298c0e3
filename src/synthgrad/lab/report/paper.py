"""The paper's own numbers, to stand beside ours.

Source: Jaderberg et al., *Decoupled Neural Interfaces using Synthetic Gradients*, ICML 2017:
Tables 1 and 2, and the supplement's part C for the stale baseline, 21 layers and figure 11a.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_Row = Mapping[str, Mapping[int, float]]

METHODS = ("none", "backprop", "dni", "cdni")

# Test error in percent after 500,000 iterations, by recipe and layers, in the order of METHODS.
TABLE_2: dict[tuple[str, int], tuple[float, float, float, float]] = {
    ("mnist-fcn", 3): (9.3, 2.0, 1.9, 2.2),
    ("mnist-fcn", 4): (12.6, 1.8, 2.2, 1.9),
    ("mnist-fcn", 5): (16.2, 1.8, 3.4, 1.7),
    ("mnist-fcn", 6): (21.4, 1.8, 4.3, 1.6),
    ("cifar10-fcn", 3): (54.9, 43.5, 42.5, 48.5),
    ("cifar10-fcn", 4): (57.2, 43.0, 45.0, 45.1),
    ("cifar10-fcn", 5): (59.6, 41.7, 46.9, 43.5),
    ("cifar10-fcn", 6): (61.9, 42.0, 49.7, 46.8),
    ("mnist-cnn", 3): (0.9, 0.8, 0.9, 1.0),
    ("mnist-cnn", 4): (2.8, 0.6, 0.7, 0.8),
    ("cifar10-cnn", 3): (28.7, 17.9, 19.5, 19.0),
    ("cifar10-cnn", 4): (38.1, 15.7, 19.5, 16.4),
}

# The same for an exponential average of past gradients as feedback, at its best decay.
STALE: dict[tuple[str, int], float] = {
    ("mnist-fcn", 3): 9.1,
    ("mnist-fcn", 4): 11.8,
    ("mnist-fcn", 5): 15.4,
    ("mnist-fcn", 6): 19.0,
}

# The same with 21 layers.
_DEEP_IN = ("mnist-fcn", 21)
DEEP: dict[str, float] = {"backprop": 2.0, "cdni": 2.0}

# The same with 6 layers and one interface, by method and by the layer that it is behind (figure
# 11a; the text gives the ends).
_SINGLE_IN = ("mnist-fcn", 6)
SINGLE: dict[tuple[str, str], float] = {
    ("dni", "1"): 1.8,
    ("dni", "5"): 3.4,
    ("none", "1"): 2.9,
    ("none", "5"): 23.7,
}

# Table 1: the longest sequence solved, and test bits per character, by recipe, method and unroll.
_COPY: _Row = {
    "bptt": {2: 7, 3: 8, 4: 10, 5: 8},
    "dni": {2: 16, 3: 14, 4: 18, 5: 18},
    "dni-aux": {2: 16, 3: 17, 4: 19, 5: 18},
}
_REPEAT_COPY: _Row = {
    "bptt": {2: 7, 3: 5, 4: 19, 5: 23},
    "dni": {2: 39, 3: 33, 4: 39, 5: 59},
    "dni-aux": {2: 39, 3: 59, 4: 67, 5: 59},
}
_PTB: _Row = {
    "bptt": {2: 1.39, 3: 1.38, 4: 1.37, 5: 1.37, 8: 1.35, 20: 1.35, 40: 1.34},
    "dni": {2: 1.37, 3: 1.36, 4: 1.35, 5: 1.35, 8: 1.34},
    "dni-aux": {2: 1.37, 3: 1.36, 4: 1.35, 5: 1.35, 8: 1.33},
}
TABLE_1: Mapping[str, _Row] = {
    "copy": _COPY,
    "repeat-copy": _REPEAT_COPY,
    "ptb": _PTB,
}

# What all those networks have in common, where a run has the setting at all: the synthetic error
# alone, from the feedback model that the paper used, and an update at every step. How the update is
# scheduled does not matter as long as the gradients are the same.
_SETTINGS: dict[str, tuple[Any, ...]] = {
    "lambda": (0, None),
    "p_update": (1, None),
    "unlock": ("no", "update", None),
    "feedback_hidden": (None,),
}

# What makes the tasks of Table 1 what they are: when a level is solved, and all of the test text.
_TASK: dict[str, tuple[Any, ...]] = {
    "threshold": (0.15, None),
    "evaluation_characters": (0, None),
}


def paper_number(
    recipe: str, layers: int | None, method: str, config: Mapping[str, Any]
) -> str | None:
    """What the paper has for this experiment, as it prints it, or None where it has nothing.

    For recurrent networks that is for the task, the method and the unroll, whatever the sizes are.
    """
    if recipe in TABLE_1:
        if any(config.get(k) not in v for k, v in _TASK.items()):
            return None
        found = TABLE_1[recipe].get(method, {}).get(config.get("unroll", 0))
        return None if found is None else str(found)
    error = paper_error(recipe, layers, method, config)
    return None if error is None else f"{error:.1f}"


def paper_error(
    recipe: str, layers: int | None, method: str, config: Mapping[str, Any]
) -> float | None:
    """The paper's test error in percent for this experiment, or None where it gives none."""
    if layers is None:
        return None
    interfaces = config.get("interfaces", "all")
    if method != "backprop":  # which has none of these
        if any(config.get(k) not in v for k, v in _SETTINGS.items()):
            return None
        if interfaces != "all":
            return SINGLE.get((method, interfaces)) if (recipe, layers) == _SINGLE_IN else None
    if method == "stale":
        return STALE.get((recipe, layers))
    if (recipe, layers) == _DEEP_IN:
        return DEEP.get(method)
    row = TABLE_2.get((recipe, layers))
    return row[METHODS.index(method)] if row and method in METHODS else None
