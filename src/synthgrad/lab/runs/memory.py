"""Memory: how much is there, and which settings to lower where it is not enough."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import torch

from synthgrad.lab.errors import RunError, UsageError
from synthgrad.lab.settings import Settings, as_said

_SIZES = (
    *("unroll", "batch_size", "units", "layers", "level_every"),
    *("feedback_hidden", "input_hidden", "auxiliary_hidden", "feedback_history"),
)
"""The settings that memory grows with."""
_SAYS = ("out of memory", "allocate memory", "not enough memory")
"""PyTorch has no exception of its own for the memory of a CPU."""


A_PARAMETER = 32
"""Bytes for each parameter while it is trained and saved: it, its gradient, Adam's two averages (4
each), all but the gradient once more in the checkpoint that is written, and its first value."""
A_MODULE = 50_000
"""Bytes of what Python keeps of a layer."""
FILLED = 0.9
"""Of what is free, how much training may be thought to need: an estimate is no measurement."""
BASE = 1 << 29
"""Bytes of PyTorch itself and a small data set."""


def widths(sizes: Sequence[int]) -> int:
    """The weights of linear maps from each size to the next."""
    return sum(a * b for a, b in pairwise(sizes))


def check_memory(needed: int, config: Settings, device: torch.device) -> None:
    """Refuses settings that no memory is there for, before any is taken.

    Args:
        needed: bytes, about.
        config: the settings, to say which to lower.
        device: where training is to be.

    Raises:
        UsageError: the device does not have as much.
    """
    there = available(device)
    if there is not None and needed > FILLED * there:
        where = "this machine has" if device.type == "cpu" else f"{device} has"
        raise UsageError(
            f"{_sizes(config)}: that needs about {_amount(needed)} of memory, and {where} "
            f"{_amount(there)} free"
        )


def available(device: torch.device) -> int | None:
    """Bytes that are free, and may be used by this process; None where nobody knows."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    found = [_number(Path("/sys/fs/cgroup", *parts)) for parts in _LIMITS]
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        lines = []
    found += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return min((number for number in found if number is not None), default=None)


_LIMITS = (("memory.max",), ("memory", "memory.limit_in_bytes"))


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):  # there is no such file, or no limit
        return None


def _amount(count: int) -> str:
    units = ("MiB", "GiB", "TiB", "PiB", "EiB")
    power = min(max((count.bit_length() - 1) // 10, 2), 2 + len(units) - 1)
    number = (count >> 10 * (power - 1)) / 1024 if count < 1 << 90 else math.inf
    return f"{number:,.1f} {units[power - 2]}" if number < 1e6 else f"over a million {units[-1]}"


def _sizes(config: Settings) -> str:
    return ", ".join(
        f"--{name.replace('_', '-')}{as_said(value)}"
        for name in _SIZES
        if (value := getattr(config, name, None))  # 0, none or nothing said cannot be lowered
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory could not be had."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in _SAYS)


@contextmanager
def enough_memory(config: Settings) -> Iterator[None]:
    """Says of what asks for too much memory which of its settings are to be lowered.

    Raises:
        RunError: there was not enough memory.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        text = str(error)
        why = text.splitlines()[0] if text else type(error).__name__
        raise RunError(f"out of memory: lower some of {_sizes(config)} ({why})") from None
