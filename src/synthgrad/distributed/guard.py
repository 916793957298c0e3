"""What a stage does about steps that fail: nothing that is not finite gets in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from synthgrad._finite import are_finite
from synthgrad._sandbox import Statistics
from synthgrad.errors import NonFiniteError


class Guard:
    """Watches over the steps of one stage.

    Args:
        modules: what it trains.
        enabled: whether it does anything at all.
    """

    def __init__(self, modules: Sequence[nn.Module], *, enabled: bool) -> None:
        self._enabled = enabled
        self._modules = modules
        self._statistics = Statistics(*modules)

    @contextmanager
    def step(self) -> Iterator[None]:
        """Around one step: one that fails leaves no statistic and no gradient behind."""
        if not self._enabled:
            yield
            return
        self._statistics.keep()
        try:
            yield
        except BaseException:
            self._statistics.put_back(whole=True)
            for module in self._modules:
                module.zero_grad()
            raise
        self._statistics.passed()

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
                f"{bad} of {tensor.numel()} values of {what} of shape "
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
