"""Runs a model without leaving a trace: for looking at it, not for training it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Restores buffers (batch norm's statistics) and the random state when the block ends."""
    buffers = {buffer: buffer.clone() for buffer in model.buffers()}
    cuda = {t.device for t in (*model.parameters(), *model.buffers()) if t.is_cuda}
    with torch.random.fork_rng(devices=sorted(d.index for d in cuda), device_type="cuda"):
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, before in buffers.items():
                    buffer.copy_(before)
