"""Guards the steps of whoever updates parts of a model by themselves, as schedules and stages do.

A step that fails leaves nothing behind that is not finite, and loses nothing. Also looked for at
each step is what may have changed since the optimisers were made: layers that were exchanged,
interfaces in eval mode, and gradients that come too late.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from synthgrad._finite import are_finite, capturing, values
from synthgrad._sandbox import Statistics
from synthgrad.errors import LockingError, NonFiniteError
from synthgrad.interface import Interface

_Structure = list[tuple[dict[str, Any], int, list[tuple[str, Any]]]]


class StepGuard:
    """Watches over steps, in each of which several parts may be updated.

    Args:
        modules: what is trained.
        optimizers: all that train it, by name.
        called: how errors call a part, given its name.
        enabled: whether NaN and infinity are refused, and statistics put back; None for what the
            interfaces in the modules say (``check_finite``), and for yes where there are none.

    Attributes:
        updated: the names of what this step has updated so far, in order.
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        optimizers: Mapping[str, Optimizer],
        *,
        called: Callable[[str], str] = "the segment ending at {!r}".format,
        enabled: bool | None = None,
    ) -> None:
        self.updated: list[str] = []
        self._modules = list(modules)
        self._optimizers = optimizers
        self._called = called
        self._enabled = enabled
        self._settled: list[tuple[Tensor, Tensor | None, int, str]] = []
        self._look()

    @property
    def checks(self) -> bool:
        """Whether what is not finite is refused at once."""
        if self._enabled is not None:
            return self._enabled
        return not self._interfaces or any(i.check_finite is True for i in self._interfaces)

    @contextmanager
    def step(self) -> Iterator[None]:
        """Around one step: a step that fails leaves no statistic and no gradient behind.

        Raises:
            LockingError: a layer was exchanged since the optimisers were made, an interface is in
                eval mode, or a part got a gradient after it had been updated.
            NonFiniteError: that of the block; it also says what had been updated before.
        """
        self._check_structure()
        for interface in self._interfaces:
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
            for optimizer in self._optimizers.values():
                for parameter in _parameters(optimizer):
                    parameter.grad = None
            if checks:
                self._statistics.put_back(whole=not self.updated)
            if isinstance(error, NonFiniteError):
                error.args = (f"{error} {self._left()}",)
            raise
        if checks:
            self._statistics.passed()

    def check(self, what: str, tensor: Any) -> None:
        """Refuses a tensor that is not finite.

        Args:
            what: it is.
            tensor: anything else is none of this method's business.

        Raises:
            NonFiniteError: it holds NaN or infinity.
        """
        if not self.checks or not isinstance(tensor, Tensor):
            return
        if not capturing(tensor) and not are_finite([tensor]):
            if not tensor.ndim:
                raise NonFiniteError(f"{what} is {tensor.item()}, expected a finite number.")
            raise NonFiniteError(
                f"{_count_bad(tensor)} values of {what} of shape {tuple(tensor.shape)} are NaN or "
                "infinite; expected finite ones."
            )

    def expect_no_gradient(self, name: str, parameters: Sequence[Tensor]) -> None:
        """Before the backward pass of a part: nothing but that may reach its parameters.

        Raises:
            LockingError: something has.
        """
        for parameter in parameters:
            if parameter.grad is not None:
                raise LockingError(self._joined(parameter, name, "before its own backward pass"))

    def update(self, name: str, optimizers: Sequence[Optimizer], *, checks: bool = True) -> None:
        """Steps optimisers, unless a gradient of one is not finite.

        Args:
            name: of the part.
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
                if (grad := parameter.grad) is None:
                    self._settled.append((parameter, None, 0, name))
                else:
                    self._settled.append((parameter, grad, grad._version, name))
        self.updated.append(name)

    def _check_gradients(self, name: str, optimizer: Optimizer) -> None:
        grads = [grad for p in _parameters(optimizer) if (grad := p.grad) is not None]
        if not grads or capturing(grads[0]) or are_finite(grads):
            return
        for parameter in _parameters(optimizer):
            if (grad := parameter.grad) is not None and not are_finite([grad]):
                raise NonFiniteError(
                    f"{self._called(name)}: {_count_bad(grad)} values of the gradient of "
                    f"{self._name_of(parameter)} are NaN or infinite; expected finite ones."
                )

    def _check_settled(self) -> None:
        for parameter, grad, version, name in self._settled:
            now = parameter.grad
            if now is not grad or (now is not None and now._version != version):
                raise LockingError(self._joined(parameter, name, "after it had been updated"))

    def _joined(self, parameter: Tensor, name: str, when: str) -> str:
        return (
            f"{self._name_of(parameter)} of {self._called(name)} got a gradient {when}: the loss "
            "or a path around a cut reaches it, which was not so at the first step. That gradient "
            "is lost. Keep to the paths of the first step, or use the model inline"
        )

    def _check_structure(self) -> None:
        if _is_as(self._structure):
            return
        known = {part for _, _, parts in self._structure for _, part in parts}
        named = (pair for module in self._modules for pair in module.named_parameters())
        if new := [name for name, p in named if p.requires_grad and p not in known]:
            raise LockingError(
                f"the parameters {new[:5]}{' and others' if len(new) > 5 else ''} came into the "
                "model after its optimisers were made, and none has them; after exchanging layers "
                "make a new schedule, or start the stage anew"
            )
        self._look()

    def _look(self) -> None:
        """Notes what the modules consist of."""
        inside = [module for outer in self._modules for module in outer.modules()]
        self._interfaces = [module for module in inside if isinstance(module, Interface)]
        self._statistics = Statistics(*self._modules)
        self._structure: _Structure = [
            (held, len(held), list(held.items()))
            for module in inside
            for held in (module._modules, module._parameters)
            if held
        ]

    def _name_of(self, parameter: Tensor) -> str:
        for module in self._modules:
            for name, found in module.named_parameters():
                if found is parameter:
                    of = "" if len(self._modules) == 1 else f" of {type(module).__name__}"
                    return f"the parameter {name!r}{of}"
        return "a parameter that is not of this model"

    def _left(self) -> str:
        if not self.updated:
            return "Nothing was changed."
        return (
            f"The updates of {list(dict.fromkeys(self.updated))}, made from finite errors before, "
            "stay; nothing else was changed."
        )


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _count_bad(tensor: Tensor) -> str:
    return f"{int((~values(tensor).isfinite()).sum())} of {tensor.numel()}"


def _is_as(structure: _Structure) -> bool:
    for held, count, parts in structure:
        if len(held) != count:
            return False
        for name, part in parts:
            if held.get(name) is not part:
                return False
    return True
