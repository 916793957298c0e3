"""Benchmarks, each of which compares within one run, as a ratio; run by ``synthgrad bench``."""

from __future__ import annotations

import os
from pathlib import Path

CLONE = Path(__file__).parent.parent


def python_path() -> str:
    """A value of ``PYTHONPATH`` by which new processes find this package, wherever they begin."""
    before = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.pathsep.join(dict.fromkeys([str(CLONE), *filter(None, before)]))
