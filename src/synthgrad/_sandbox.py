"""Runs a model, and leaves no trace where it was only looked at, or where training it failed."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from synthgrad import _checks
from synthgrad._finite import are_finite
from synthgrad.errors import ArgumentError


def run(model: nn.Module, x: Any) -> Any:
    """Calls a model with one argument, a tuple of positional or a mapping of keyword arguments.

    A named tuple, such as a packed sequence, is one argument.

    Raises:
        ArgumentError: a name in the mapping is no string, or the model takes other arguments.
    """
    arguments: tuple[Any, ...] = (x,)
    named: dict[str, Any] = {}
    if isinstance(x, Mapping):
        named = {_checks.text("a name in x", name): value for name, value in x.items()}
        arguments = ()
    elif isinstance(x, tuple) and not hasattr(x, "_fields"):
        arguments = x
    try:
        return model(*arguments, **named)
    except TypeError as error:
        try:
            inspect.signature(model.forward).bind(*arguments, **named)
        except TypeError as mismatch:
            raise ArgumentError(
                f"x does not fit {type(model).__name__}.forward: {mismatch}; expected one tensor, "
                "a tuple of its positional arguments, or a mapping of its keyword arguments"
            ) from error
        raise


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


_RUNNING = ("running_mean", "running_var")


class Statistics:
    """The buffers that a step changes, such as batch norm's statistics, and how to put them back.

    All are copied before the first step; later on only those that were seen to change.
    """

    def __init__(self, *models: nn.Module) -> None:
        self._still: list[tuple[dict[str, Any], str]] = []
        # Batch norm's kernels change these behind the back of the tensors' version counters.
        self._moving: list[tuple[dict[str, Any], str]] = []
        for module in (inner for model in models for inner in model.modules()):
            for name, tensor in module._buffers.items():
                moves = isinstance(module, nn.modules.batchnorm._NormBase) or name in _RUNNING
                if tensor is not None:
                    (self._moving if moves else self._still).append((module._buffers, name))
        self._copies: list[tuple[dict[str, Any], str, Tensor, Tensor]] = []
        self._versions: list[tuple[Tensor, int]] | None = None

    def keep(self) -> None:
        """Remembers them as they are."""
        slots = [*self._still, *self._moving] if self._versions is None else self._moving
        self._copies = [(b, n, b[n], b[n].detach().clone()) for b, n in slots]
        still: list[Tensor] = [b[n] for b, n in self._still]
        self._versions = [(tensor, _version(tensor)) for tensor in still]

    def passed(self) -> None:
        """The step has done all it had to."""
        assert self._versions is not None
        still = []
        for (buffers, name), (tensor, version) in zip(self._still, self._versions, strict=True):
            same = buffers[name] is tensor and _version(tensor) == version
            (still if same else self._moving).append((buffers, name))
        self._still = still
        self._copies = []

    @torch.no_grad()
    def put_back(self, *, whole: bool) -> None:
        """Puts them back: all, or only those that are not finite."""
        for buffers, name, tensor, copy in self._copies:
            if whole or not are_finite([buffers[name]]):
                buffers[name] = tensor
                tensor.copy_(copy)
        self._copies = []
        self._versions = None  # and copies all the next time, for one may have moved just now


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version
