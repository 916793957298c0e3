"""``synthgrad bench recurrent``: what a step costs with a synthetic gradient, against plain BPTT.

What is timed is the trainer of Copy at work, its stream and metrics included. All methods of one T
take turns, so that what disturbs the machine disturbs each of them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import get_args

import torch
from rich.console import Console
from rich.table import Table

from synthgrad.lab.bench.throughput import wait_for
from synthgrad.lab.errors import UsageError
from synthgrad.lab.run import pick_device
from synthgrad.lab.runnable import Trains
from synthgrad.lab.sequences.config import EpisodeConfig, Method
from synthgrad.lab.sequences.recipes import SEQUENCE_RECIPES

METHODS: tuple[Method, ...] = ("bptt", "dni", "dni-aux")
TARGETS = {"dni": 1.15, "dni-aux": 1.30}
"""At T = 3, with 128 units on one thread."""
TARGET_UNROLL = 3
WARM_UP = 20
"""Steps before any is timed."""
TURN = 10
"""Steps of a method's turn."""
ROUNDS = 40


def main(
    threads: int,
    *,
    units: int,
    batch_size: int,
    unrolls: Sequence[int],
    precision: str,
    device: str,
    rounds: int = ROUNDS,
) -> None:
    """Measures and prints one table.

    Raises:
        UsageError: there is no such device, or a number is too small.
    """
    for option, value in (("units", units), ("batch-size", batch_size)):
        if value < 1:  # where a recipe would choose
            raise UsageError(f"--{option}: expected at least 1, got {value}")
    where = pick_device(device)
    if where.type == "cpu":
        torch.set_num_threads(threads)
    table = Table("T", "method", box=None)
    for heading in ("steps/s", "samples/s", "x BPTT", "to reach"):
        table.add_column(heading, justify="right")
    for unroll in unrolls:
        times = _times(units, batch_size, unroll, precision, where, rounds)
        for method, seconds in times.items():
            target = TARGETS.get(method) if unroll == TARGET_UNROLL else None
            table.add_row(
                str(unroll),
                method,
                f"{1 / seconds:,.0f}",
                f"{unroll * batch_size / seconds:,.0f}",
                f"{seconds / times['bptt']:.2f}",
                "" if target is None else f"{target:.2f}",
            )
    machine = torch.cuda.get_device_name(where) if where.type == "cuda" else f"{threads} CPU thread"
    console = Console()
    console.print(f"Copy, {units} units, {batch_size} rows, {precision}, {machine}")
    console.print(table)


def _times(
    units: int, batch: int, unroll: int, precision: str, device: torch.device, rounds: int
) -> dict[str, float]:
    """Seconds of a step by each method: the lower quartile over rounds, for noise only adds."""
    assert set(METHODS) == set(get_args(Method))
    trainers: dict[str, Trains] = {}
    for method in METHODS:
        try:
            config = EpisodeConfig(
                method=method,
                unroll=unroll,
                units=units,
                batch_size=batch,
                precision="bfloat16" if precision == "bfloat16" else "float32",
            )
        except ValueError as error:
            raise UsageError(str(error)) from error
        trainers[method] = SEQUENCE_RECIPES["copy"].trainer(config, None, device)
    for trainer in trainers.values():
        for _ in range(WARM_UP):
            trainer.advance()
    turns: dict[str, list[float]] = {method: [] for method in trainers}
    for _ in range(rounds):
        for method, trainer in trainers.items():
            wait_for(device)
            start = time.perf_counter()
            for _ in range(TURN):
                trainer.advance()
            wait_for(device)
            turns[method].append((time.perf_counter() - start) / TURN)
    return {method: statistics.quantiles(values, n=4)[0] for method, values in turns.items()}
