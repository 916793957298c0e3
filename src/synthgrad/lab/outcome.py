"""What a finished run came to, in one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# The first that a run has is what it came to.
_METRICS = (
    ("test_error", "test error {:.2f}%"),
    ("test_error_b", "test error of network B {:.2f}%"),
    ("test_bpc", "test bits per character {:.3f}"),
    ("solved_length", "longest solved length {:.0f}"),
)


def outcome(summary: Mapping[str, Any]) -> str:
    """For example "test error 1.36% after 5000 iterations in 60 s"."""
    metrics = summary["metrics"]
    said = next(
        (text.format(metrics[key]) for key, text in _METRICS if metrics.get(key) is not None),
        "done",
    )
    return f"{said} after {summary['iterations']} iterations in {summary['seconds']:.0f} s"
