"""The benchmarks as the command line sees them: each with its own options.

To add one, write a class with a method ``measure`` and put it into :data:`BENCHES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from synthgrad.lab.errors import UsageError
from synthgrad.lab.settings import MOST_THREADS, check_range


class Bench(Protocol):
    """A benchmark with its options."""

    def measure(self) -> None:
        """Measures and prints."""
        ...


@dataclass(frozen=True, kw_only=True)
class Threads:
    """What those have in common that run in this process."""

    threads: int = 2
    """CPU threads."""

    def __post_init__(self) -> None:
        check_range("--threads", self.threads, 1, MOST_THREADS)


@dataclass(frozen=True, kw_only=True)
class Step(Threads):
    """Time and activation memory of a training step against backpropagation."""

    def measure(self) -> None:
        """Measures and prints."""
        from benchmarks import step

        step.main(self.threads)


@dataclass(frozen=True, kw_only=True)
class Memory(Threads):
    """Peak resident memory of fresh processes, the first step included, by depth."""

    layers: tuple[int, ...] = (8, 64)
    """Depths; the ratio is that of the last to the first."""
    units: int = 256
    """Units of each hidden layer."""
    batch_size: int = 16384
    """Rows."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("--units", self.units, 1, 2**16)
        check_range("--batch-size", self.batch_size, 2, 2**20)
        for layers in self.layers:
            check_range("--layers", layers, 2, 1000)
        if not self.layers:
            raise UsageError("--layers: expected one depth at least")

    def measure(self) -> None:
        """Measures and prints."""
        from benchmarks import resident

        resident.main(self.threads, self.layers, units=self.units, batch_size=self.batch_size)


@dataclass(frozen=True, kw_only=True)
class Train(Threads):
    """How fast feed-forward recipes train, and the share of the machine's peak."""

    recipes: tuple[str, ...] = ("mnist-fcn",)
    """Which recipes."""
    methods: tuple[str, ...] = ("backprop", "none", "stale", "cdni")
    """Which methods; without dni, whose feedback models are an order of magnitude dearer than the
    network."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: autocast."""
    device: str = "auto"
    """Where to run: cpu, cuda, cuda:1, or auto for a GPU where there is one."""
    data_root: Path | None = None
    """Where the data sets are, in torchvision's layout; by default $SYNTHGRAD_DATA. Without a data
    set, examples are random."""

    def measure(self) -> None:
        """Measures and prints."""
        from benchmarks import train

        train.main(
            self.threads,
            self.recipes,
            self.methods,
            precision=self.precision,
            device=self.device,
            data_root=self.data_root,
        )


@dataclass(frozen=True, kw_only=True)
class Recurrent(Threads):
    """Steps and samples a second of Copy by each method, against truncated BPTT."""

    threads: int = 1
    units: int = 128
    """Units of the LSTM."""
    batch_size: int = 256
    """Rows."""
    unrolls: tuple[int, ...] = (3, 8)
    """T, one table each."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: autocast."""
    device: str = "auto"
    """Where to run: cpu, cuda, cuda:1, or auto for a GPU where there is one."""

    def measure(self) -> None:
        """Measures and prints."""
        from benchmarks import recurrent

        recurrent.main(
            self.threads,
            units=self.units,
            batch_size=self.batch_size,
            unrolls=self.unrolls,
            precision=self.precision,
            device=self.device,
        )


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Decoupled stages in processes of their own beside update-locked ones, over real delays.

    The parts: "rate" (two stages, no delay), "delay" (over links that hold each packet; needs
    root), "stages" (2 to 16 that sleep), "learning" (mnist-fcn in stages) and "faults" (stages are
    killed while they train).
    """

    parts: tuple[str, ...] = ()
    """Which parts; by default all."""
    quick: bool = False
    """Tiny sizes, whose numbers say nothing."""
    out: Path | None = None
    """A JSON file for all numbers."""
    data_root: Path | None = None
    """Where MNIST is, in torchvision's layout; by default $SYNTHGRAD_DATA."""

    def measure(self) -> None:
        """Measures and prints."""
        from benchmarks.pipeline import main

        main.main(self.parts, quick=self.quick, out=self.out, data_root=self.data_root)


BENCHES: Mapping[str, Bench] = {
    "step": Step(),
    "memory": Memory(),
    "train": Train(),
    "recurrent": Recurrent(),
    "pipeline": Pipeline(),
}
