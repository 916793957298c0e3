"""``synthgrad bench train``: how fast the recipes train, against backpropagation and the machine.

What is timed is the trainer itself, with its data, rates and metrics, so nothing is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.contest import ROUNDS, Contestant, Result, contest
from benchmarks.timing import machine
from synthgrad.lab.errors import UsageError
from synthgrad.lab.experiments.image_recipes import RECIPES
from synthgrad.lab.experiments.images import ImageExperiment, Method
from synthgrad.lab.runs.run import pick_device

_PARTS = ("data", "shuffling", "labels", "metrics")
TARGET = 0.05
"""The share of a step that data, shuffling, labels and metrics may take together."""


def main(
    threads: int,
    recipes: Sequence[str],
    methods: Sequence[str],
    *,
    precision: str = "float32",
    device: str = "auto",
    data_root: Path | None = None,
    rounds: tuple[int, int] = ROUNDS,
) -> None:
    """Measures and prints a table for each recipe.

    Raises:
        UsageError: there is no such recipe, method or device.
    """
    _check("--recipes", recipes, tuple(RECIPES))
    _check("--methods", methods, get_args(Method))
    where = pick_device(device)
    torch.set_num_threads(threads)
    console = Console()
    for name in recipes:
        recipe = RECIPES[name]
        result = contest(
            recipe,
            list(dict.fromkeys(("backprop", *methods))),
            where,
            precision=precision,
            data_root=data_root,
            rounds=rounds,
        )
        _print(console, recipe, result, machine(where, threads), precision)


def _check(option: str, chosen: Sequence[str], known: Sequence[str]) -> None:
    unknown = [name for name in chosen if name not in known]
    if unknown or not chosen:
        raise UsageError(
            f"{option}: expected some of {', '.join(known)}, got {', '.join(unknown) or 'none'}"
        )


def _print(
    console: Console, recipe: ImageExperiment, result: Result, where: str, precision: str
) -> None:
    examples = recipe.data if result.real else f"random examples in the shape of {recipe.data}"
    size, layers = recipe.defaults.batch_size, recipe.defaults.layers
    console.print(
        f"\n{recipe.name}: {layers} layers, batch {size}, {examples}, {precision}, {where}; "
        f"peak {result.peak / 1e9:,.0f} GFLOP/s in a large matrix product"
    )
    base = result.contestants["backprop"].seconds
    # Two tables, which both fit into 80 columns.
    speed = Table("method", box=None)
    for heading in ("examples/s", "µs/iteration", "x backprop", "MFLOP", "% of peak"):
        speed.add_column(heading, justify="right")
    shares = Table("% of a step", box=None)
    for heading in (*_PARTS, "together", "evaluating"):
        shares.add_column(heading, justify="right")
    for method, contestant in result.contestants.items():
        speed.add_row(method, *_speed(contestant, size, base, result.peak))
        parts = (contestant.share(part) for part in _PARTS)
        whole = (*parts, contestant.together, contestant.evaluating)
        shares.add_row(method, *(f"{share:.1%}" for share in whole))
    console.print(speed)
    console.print(shares)
    worst = max(contestant.together for contestant in result.contestants.values())
    console.print(
        f"Data, shuffling, labels and metrics together take at most {worst:.1%} of a step "
        f"(to reach: {TARGET:.0%})."
    )


def _speed(contestant: Contestant, batch: int, base: float, peak: float) -> list[str]:
    seconds = contestant.seconds
    return [
        f"{batch / seconds:,.0f}",
        f"{1e6 * seconds:,.0f}",
        f"{seconds / base:.2f}",
        f"{contestant.count / 1e6:,.0f}",
        f"{contestant.count / seconds / peak:.1%}",
    ]
