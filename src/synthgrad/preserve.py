"""Runs a model without leaving a trace: for looking at it, not for training it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Keeps buffers (batch norm's statistics) and the random state from what the block does.

    The model works on copies of its buffers, so that a graph that holds the real ones, from a
    forward pass before, can still be walked afterwards.
    """
    slots = [
        (module._buffers, name, buffer)
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    copies = {buffer: buffer.clone() for _, _, buffer in slots}
    cuda = {t.device for t in (*model.parameters(), *model.buffers()) if t.is_cuda}
    with torch.random.fork_rng(devices=sorted(d.index for d in cuda), device_type="cuda"):
        try:
            for buffers, name, buffer in slots:
                buffers[name] = copies[buffer]
            yield
        finally:
            for buffers, name, buffer in slots:
                buffers[name] = buffer
