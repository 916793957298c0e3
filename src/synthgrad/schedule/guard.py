"""What a schedule does about steps that fail: nothing that is not finite gets in, nothing is lost.

Also what may change behind a schedule's back after its first step, and is looked for at each:
layers that were exchanged, interfaces in eval mode, and gradients that come too late.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from synthgrad._finite import are_finite, capturing, values
from synthgrad._sandbox import Statistics
from synthgrad.errors import LockingError, NonFiniteError
from synthgrad.interface import Interface
from synthgrad.schedule.optimizers import Optimizers


class Guard:
    """Watches over the steps of one schedule.

    Args:
        model: what is trained.
        optimizers: of the schedule.

    Attributes:
        updated: the names of what this step has updated so far, in order.
    """

    def __init__(self, model: nn.Module, optimizers: Optimizers) -> None:
        self.model = model
        self.optimizers = optimizers
        self.updated: list[str] = []
        self.interfaces = [m for m in model.modules() if isinstance(m, Interface)]
        self._statistics = Statistics(model)
        self._structure = _structure(model)
        self._settled: list[tuple[Tensor, Tensor | None, int, str]] = []

    @property
    def checks(self) -> bool:
        """Whether anybody wants errors to be checked at once (``check_finite``)."""
        return not self.interfaces or any(i.check_finite is True for i in self.interfaces)

    @contextmanager
    def step(self) -> Iterator[None]:
        """Around one step: a step that fails leaves no statistic and no gradient behind.

        Raises:
            LockingError: a layer was exchanged since the optimisers were made, an interface is in
                eval mode, or a segment got a gradient after it had been updated.
            NonFiniteError: that of the block; it also says what had been updated before.
        """
        self._check_structure()
        for interface in self.interfaces:
            if not interface.training:
                raise LockingError(
                    f"{interface.label}: it is in eval mode while the model trains; call train() "
                    "on it, for a module's eval() reaches the interfaces inside"
                )
        self.updated, self._settled = [], []
        checks = self.checks
        if checks:
            self._statistics.keep()
        try:
            yield
            self._check_settled()
        except BaseException as error:
            self.optimizers.clear_gradients()
            if checks:
                self._statistics.put_back(whole=not self.updated)
            if isinstance(error, NonFiniteError):
                raise type(error)(f"{error} {self._left()}") from error
            raise
        if checks:
            self._statistics.passed()

    def check_loss(self, loss: Tensor) -> None:
        """Refuses a loss that is not finite.

        Raises:
            NonFiniteError: it is NaN or infinite.
        """
        if self.checks and not capturing(loss) and not math.isfinite(value := loss.item()):
            raise NonFiniteError(f"the loss is {value}, expected a finite number.")

    def expect_no_gradient(self, name: str, parameters: Sequence[Tensor]) -> None:
        """Before the backward pass of a segment: nothing but that may reach its parameters.

        Raises:
            LockingError: something has.
        """
        for parameter in parameters:
            if parameter.grad is not None:
                raise LockingError(self._joined(parameter, name, "before its own backward pass"))

    def update(self, name: str, optimizers: Sequence[Optimizer], *, checks: bool = True) -> None:
        """Steps optimisers, unless a gradient of one is not finite.

        Args:
            name: of the segment.
            optimizers: its own, and those of the feedback models that were fitted with it.
            checks: whether gradients are checked.

        Raises:
            NonFiniteError: a gradient holds NaN or infinity; none of them has stepped.
        """
        if checks and self.checks:
            for optimizer in optimizers:
                self._check_gradients(name, optimizer)
        for optimizer in optimizers:
            optimizer.step()
            for parameter in _parameters(optimizer):
                grad = parameter.grad
                version = 0 if grad is None else grad._version
                self._settled.append((parameter, grad, version, name))
        self.updated.append(name)

    def explain(self, error: RuntimeError, look: Callable[[], Any]) -> None:
        """Looks whether the graph is still that of the first step, where PyTorch refused it.

        Args:
            error: what PyTorch said.
            look: looks at the graph anew, as at the first step.

        Raises:
            LockingError: it is another, and says how.
        """
        try:
            look()
        except LockingError as reason:
            raise LockingError(f"since the first step the model has changed: {reason}") from error
        except Exception:  # not what went wrong first
            return

    def _check_gradients(self, name: str, optimizer: Optimizer) -> None:
        grads = [p.grad for p in _parameters(optimizer) if p.grad is not None]
        if not grads or capturing(grads[0]) or are_finite(grads):
            return
        for parameter in _parameters(optimizer):
            if parameter.grad is not None and not are_finite([parameter.grad]):
                bad = int((~values(parameter.grad).isfinite()).sum())
                raise NonFiniteError(
                    f"the segment ending at {name!r}: {bad} of {parameter.grad.numel()} values of "
                    f"the gradient of {self._name_of(parameter)} are NaN or infinite; expected "
                    "finite ones."
                )

    def _check_settled(self) -> None:
        for parameter, grad, version, name in self._settled:
            now = parameter.grad
            if now is not grad or (now is not None and now._version != version):
                raise LockingError(self._joined(parameter, name, "after it had been updated"))

    def _joined(self, parameter: Tensor, name: str, when: str) -> str:
        return (
            f"{self._name_of(parameter)} of the segment ending at {name!r} got a gradient {when}: "
            "the loss or a path around a cut reaches it, which was not so at the first step. That "
            "gradient is lost. Keep to the paths of the first step, or use the model inline"
        )

    def _check_structure(self) -> None:
        if _is_as(self._structure):
            return
        known = {part for _, _, parts in self._structure for _, part in parts}
        new = [n for n, p in self.model.named_parameters() if p.requires_grad and p not in known]
        if new:
            raise LockingError(
                f"the parameters {new[:5]}{' and others' if len(new) > 5 else ''} came into the "
                "model after the schedule made its optimisers, and none has them; make a new "
                "schedule after exchanging layers"
            )
        self.interfaces = [m for m in self.model.modules() if isinstance(m, Interface)]
        self._statistics = Statistics(self.model)
        self._structure = _structure(self.model)

    def _name_of(self, parameter: Tensor) -> str:
        names = (n for n, p in self.model.named_parameters() if p is parameter)
        return f"the parameter {next(names, '(not of this model)')!r}"

    def _left(self) -> str:
        if not self.updated:
            return "Nothing was changed."
        return (
            f"The updates of {list(dict.fromkeys(self.updated))}, made from finite errors before, "
            "stay; nothing else was changed."
        )


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _structure(model: nn.Module) -> list[tuple[dict[str, Any], int, list[tuple[str, Any]]]]:
    """What every module consists of: its dictionaries, and what was in them."""
    return [
        (held, len(held), list(held.items()))
        for module in model.modules()
        for held in (module._modules, module._parameters)
        if held
    ]


def _is_as(structure: list[tuple[dict[str, Any], int, list[tuple[str, Any]]]]) -> bool:
    return all(
        len(held) == count and all(held.get(name) is part for name, part in parts)
        for held, count, parts in structure
    )
