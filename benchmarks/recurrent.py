"""``synthgrad bench recurrent``: what a step costs with a synthetic gradient, against plain BPTT.

What is timed is the trainer of Copy at work, its stream and metrics included. All methods of one T
take turns, so that what disturbs the machine disturbs each of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.timing import low, machine, timed
from synthgrad.lab.errors import UsageError
from synthgrad.lab.experiment import Trainer
from synthgrad.lab.experiments import ALL
from synthgrad.lab.experiments.copying import EpisodeConfig
from synthgrad.lab.experiments.recurrent import Method, Precision
from synthgrad.lab.runs.memory import check_memory
from synthgrad.lab.runs.run import pick_device

METHODS: tuple[Method, ...] = get_args(Method)
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
    precision: Precision,
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
    if not unrolls:
        raise UsageError("--unrolls: expected at least one T, as in 3 8, got none")
    if min(unrolls) < 1:
        raise UsageError(f"--unrolls: expected each at least 1, got {min(unrolls)}")
    where = pick_device(device)
    for unroll in unrolls:
        config = EpisodeConfig(unroll=unroll, units=units, batch_size=batch_size)
        recipe = ALL["copy"]
        check_memory(recipe.memory(recipe.settle(config)), config, where)
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
    console = Console()
    console.print(f"Copy, {units} units, {batch_size} rows, {precision}, {machine(where, threads)}")
    console.print(table)


def _times(
    units: int, batch: int, unroll: int, precision: Precision, device: torch.device, rounds: int
) -> dict[str, float]:
    """Seconds of a step by each method: the lower quartile over rounds."""
    trainers: dict[str, Trainer] = {}
    for method in METHODS:
        config = EpisodeConfig(
            method=method, unroll=unroll, units=units, batch_size=batch, precision=precision
        )
        trainers[method] = ALL["copy"].trainer(config, None, device)
    for trainer in trainers.values():
        for _ in range(WARM_UP):
            trainer.advance()
    turns: dict[str, list[float]] = {method: [] for method in trainers}
    for _ in range(rounds):
        for method, trainer in trainers.items():
            turns[method].append(timed(trainer.advance, TURN, device))
    return {method: low(values) for method, values in turns.items()}
