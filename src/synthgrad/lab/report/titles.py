"""What the columns of a results table are called."""

from __future__ import annotations

from collections.abc import Sequence

from synthgrad.lab.report.runs import Run

# In the order of the table.
TITLES = {
    "test_error": "Test error, %",
    "test_error_a": "Test error of network A, %",
    "test_error_b": "Test error of network B, %",
    "validation_error": "Validation error, %",
    "validation_error_a": "Validation error of network A, %",
    "validation_error_b": "Validation error of network B, %",
    "train_error": "Training error, %",
    "train_loss": "Training loss",
    "train_loss_a": "Training loss of network A",
    "train_loss_b": "Training loss of network B",
    "solved_length": "Longest length solved",
    "test_bpc": "Test bits per character (best model)",
    "best_validation_bpc": "Validation bits per character (best model)",
    "validation_bpc": "Validation bits per character (last model)",
    "train_bits": "Training bits per character (last)",
    "data_to_bpc": "Characters read to {level}",
    "seconds_to_bpc": "Training seconds to {level}",
    "samples": "Characters read",
    "explained/boundary": "Explained variance of the synthetic gradient",
    "explained/inside": "Explained variance inside the unroll",
    "explained/auxiliary": "Explained variance of the auxiliary prediction",
}

# Rows of other recipes that the report's reader has no use for.
_INNER = {
    "n",
    "r",
    "level_bits",
    "bpc_level",
    "task_length",
    "gradient_norm",
    "feedback_gradient_norm",
    "ticks",
}


def title(name: str, runs: Sequence[Run]) -> str:
    """The title of a metric's column, with its unit."""
    levels = {run.config.get("bpc_level") for run in runs}
    level = levels.pop() if len(levels) == 1 else None
    said = "their bpc level" if level is None else f"{level} bits per character"
    return TITLES.get(name, name.replace("_", " ")).replace("{level}", said)


def in_order(names: Sequence[str]) -> list[str]:
    """The metrics that have a column: the foremost first. Interfaces have charts of their own."""
    rest = [
        name
        for name in names
        if name not in TITLES and name not in _INNER and not name.startswith("interface/")
    ]
    return [name for name in TITLES if name in names] + rest
