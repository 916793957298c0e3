"""Runs the parts of ``synthgrad bench pipeline`` and shows what they found."""

from __future__ import annotations

import json
import os
import platform
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.link import why_not
from benchmarks.pipeline.contestants import Runner
from benchmarks.pipeline.delay import measure_delay
from benchmarks.pipeline.faults import measure_faults
from benchmarks.pipeline.findings import Findings, show
from benchmarks.pipeline.growth import measure_stages
from benchmarks.pipeline.learning import measure_learning
from benchmarks.pipeline.rate import measure_rate
from benchmarks.pipeline.sizes import FULL, QUICK, Sizes
from synthgrad import checkpoint
from synthgrad.lab.errors import UsageError
from synthgrad.lab.runs.folder import is_a_runs_own
from synthgrad.lab.runs.signals import SIGNALS, Stopped

PARTS: dict[str, Callable[[Runner, Sizes], Findings]] = {
    "rate": measure_rate,
    "delay": measure_delay,
    "stages": measure_stages,
    "learning": measure_learning,
    "faults": measure_faults,
}
_NEED_LINKS = ("delay", "learning")


def main(
    parts: Sequence[str] = (),
    *,
    quick: bool = False,
    out: Path | None = None,
    data_root: Path | None = None,
) -> dict[str, Findings]:
    """Measures, prints a table for each part, and writes all numbers.

    Args:
        parts: which; none for all.
        quick: tiny sizes, whose numbers say nothing.
        out: a JSON file.
        data_root: where MNIST is; by default $SYNTHGRAD_DATA.

    Returns:
        What was found, by part; without those that cannot be run here.

    Raises:
        UsageError: there is no such part.
        Stopped: a signal came; every process it had started is gone.
    """
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise UsageError(f"--parts: expected some of {', '.join(PARTS)}, got {', '.join(unknown)}")
    if out is not None and is_a_runs_own(out):
        raise UsageError(f"--out: {out} is, or would be taken for, a run's own file")
    console = Console()
    sizes = (QUICK if quick else FULL).with_data(data_root)
    reason = why_not()
    found: dict[str, Findings] = {}
    console.print(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start, torch "
        f"{torch.__version__}",
        highlight=False,
    )
    with _stoppable(), tempfile.TemporaryDirectory(prefix="synthgrad-bench-") as folder:
        for part in dict.fromkeys(parts or PARTS):
            if part in _NEED_LINKS and reason is not None:
                console.print(f"\n{part}: skipped: {reason}", highlight=False)
                continue
            start = time.monotonic()
            found[part] = PARTS[part](Runner(Path(folder) / part), sizes)
            found[part].seconds = time.monotonic() - start
            show(console, found[part])
            if out is not None:  # after each part, since the whole takes long
                checkpoint.write(out, json.dumps(_report(found, quick), indent=1).encode())
    return found


def _report(found: dict[str, Findings], quick: bool) -> dict[str, Any]:
    machine = {
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "torch": str(torch.__version__),
        "load": os.getloadavg(),
    }
    return {
        "machine": machine,
        "quick": quick,
        "parts": {part: findings.to_json() for part, findings in found.items()},
    }


@contextmanager
def _stoppable() -> Iterator[None]:
    """Makes signals an exception, so that every block that holds processes is left."""

    def stop(number: int, _: Any) -> None:
        raise Stopped(f"stopped by {signal.Signals(number).name}")

    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
