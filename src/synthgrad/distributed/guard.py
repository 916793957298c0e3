"""What a stage does about steps that fail: nothing that is not finite gets in."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer

from synthgrad.errors import NonFiniteError


class Guard:
    """Watches over the steps of one stage.

    Args:
        label: how errors call the stage.
        modules: what it trains.
        enabled: whether it does anything at all.
    """

    def __init__(self, label: str, modules: Sequence[nn.Module], *, enabled: bool) -> None:
        self._label, self._enabled = label, enabled
        self._modules = modules
        # Where buffers are. Norms' statistics are copied before each step: PyTorch changes them
        # without counting their versions. Of all others, such as tables and masks, those are that
        # were seen to change; and all of them before the first step.
        self._still: list[tuple[dict[str, Any], str]] = []
        self._moving: list[tuple[dict[str, Any], str]] = []
        for module in (inner for whole in modules for inner in whole.modules()):
            slots = [
                (module._buffers, name) for name, b in module._buffers.items() if b is not None
            ]
            (self._moving if isinstance(module, _NormBase) else self._still).extend(slots)
        self._seen = False

    @contextmanager
    def step(self) -> Iterator[None]:
        """Around one step: one that fails leaves no statistic and no gradient behind."""
        if not self._enabled:
            yield
            return
        slots = self._moving if self._seen else [*self._still, *self._moving]
        copies = [(held, name, held[name], held[name].detach().clone()) for held, name in slots]
        versions = [(held[name], _version(held[name])) for held, name in self._still]
        try:
            yield
        except BaseException:
            self._seen = False  # for one may have moved just now
            with torch.no_grad():
                for held, name, buffer, copy in copies:
                    held[name] = buffer
                    buffer.copy_(copy)
            for module in self._modules:
                module.zero_grad()
            raise
        still = []
        for slot, (buffer, version) in zip(self._still, versions, strict=True):
            held, name = slot
            same = held[name] is buffer and _version(buffer) == version
            (still if same else self._moving).append(slot)
        self._still, self._seen = still, True

    def check(self, what: str, tensor: Any) -> None:
        """Refuses a tensor that the step rests on.

        Args:
            what: it is.
            tensor: anything else is none of this function's business.

        Raises:
            NonFiniteError: it holds NaN or infinity.
        """
        if self._enabled and isinstance(tensor, Tensor) and not are_finite([tensor]):
            bad = int((~tensor.isfinite()).sum())
            raise NonFiniteError(
                f"{self._label}: {bad} of {tensor.numel()} values of {what} of shape "
                f"{tuple(tensor.shape)} are NaN or infinite; expected finite ones. This step has "
                "changed nothing"
            )

    def update(self, optimizers: Sequence[Optimizer]) -> None:
        """Steps optimisers, unless a gradient of one of them is not finite.

        Raises:
            NonFiniteError: one is; none has stepped.
        """
        if self._enabled:
            held = [p for o in optimizers for group in o.param_groups for p in group["params"]]
            grads = [p.grad for p in held if p.grad is not None]
            if not are_finite(grads):
                for parameter in held:
                    if parameter.grad is not None:
                        self.check(f"the gradient of {self._name_of(parameter)}", parameter.grad)
        for optimizer in optimizers:
            optimizer.step()

    def _name_of(self, parameter: Tensor) -> str:
        for module in self._modules:
            for name, found in module.named_parameters():
                if found is parameter:
                    return f"{type(module).__name__}'s {name!r}"
        return "a parameter"


def are_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether no tensor holds NaN or infinity."""
    found = [t._values() if t.is_sparse else t for t in tensors]
    found = [t.detach() for t in found if (t.is_floating_point() or t.is_complex()) and t.numel()]
    # A sum is ten times faster than an element-wise test, which then only has to confirm.
    sums = [t.sum() for t in found]
    if len({s.device for s in sums}) > 1 or (sums and not sums[0].is_cpu):  # one look at the device
        total = torch.stack([s.abs().to(sums[0].device, torch.float64) for s in sums]).sum()
        sums = [total]
    if all(math.isfinite(abs(s.item())) for s in sums):
        return True
    return all(bool(t.isfinite().all()) for t in found)


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version
