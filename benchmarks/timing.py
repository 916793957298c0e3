"""How long something takes, on what."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch


def wait_for(device: torch.device) -> None:
    """Returns when a GPU has done all that it was asked for; at once on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(work: Callable[[], object], times: int, device: torch.device) -> float:
    """Seconds of one call, with all that it asked of the device."""
    wait_for(device)
    start = time.perf_counter()
    for _ in range(times):
        work()
    wait_for(device)
    return (time.perf_counter() - start) / times


def low(values: Sequence[float]) -> float:
    """The lower quartile: noise only ever adds."""
    return statistics.quantiles(values, n=4)[0]


def machine(device: torch.device, threads: int) -> str:
    """What a table says of where it was measured."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{threads} CPU thread{'s' if threads > 1 else ''}"
