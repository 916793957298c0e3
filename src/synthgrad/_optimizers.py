"""Optimisers by name, one for each part of a model that is updated by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from synthgrad.errors import ArgumentError

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]


class Optimizers(dict[str, Optimizer]):
    """One optimiser for each part that is updated by itself.

    Which parts there are is known when a schedule has seen its model run. A state that is loaded
    before that is kept until then.
    """

    def __init__(self) -> None:
        super().__init__()
        self._stored: dict[str, Any] | None = None

    def make(self, name: str, make: MakeOptimizer, parameters: list[nn.Parameter]) -> None:
        """Makes one, unless there is nothing to optimise.

        Raises:
            ArgumentError: what ``make`` returned is no optimiser, or leaves out parameters that
                require grad, which nobody would then train.
        """
        if not parameters:
            return
        made = make(parameters)
        if not isinstance(made, Optimizer):
            raise ArgumentError(
                f"the optimiser of {name!r} must be a torch.optim.Optimizer, got "
                f"{type(made).__name__}"
            )
        taken = {id(p) for group in made.param_groups for p in group["params"]}
        left = [tuple(p.shape) for p in parameters if p.requires_grad and id(p) not in taken]
        if left:
            raise ArgumentError(
                f"the optimiser of {name!r} leaves out {len(left)} of its {len(parameters)} "
                f"parameters, of shapes {left[:5]}; expected all, and requires_grad_(False) for "
                "those that should not learn"
            )
        self[name] = made

    def made(self) -> None:
        """All are there: restores a state that was loaded before.

        Raises:
            ArgumentError: it belongs to a model that is cut elsewhere. Then none is there, so that
                another state can be loaded.
        """
        if self._stored is None:
            return
        try:
            self._restore(self._stored)
        except ArgumentError:
            self.clear()
            raise

    def clear_gradients(self) -> None:
        """Sets every gradient to None."""
        for optimizer in self.values():
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """The state of every optimiser, by name."""
        if self._stored is not None:
            return self._stored
        return {name: optimizer.state_dict() for name, optimizer in self.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores :meth:`state_dict`.

        Raises:
            ArgumentError: it belongs to a model that is cut elsewhere.
        """
        if self:
            self._restore(state)
        else:
            self._stored = state

    def _restore(self, state: dict[str, Any]) -> None:
        if not state:  # from before the first step, when nothing was made
            for optimizer in self.values():
                optimizer.state.clear()
            self._stored = None
            return
        if state.keys() != self.keys():
            raise ArgumentError(
                f"the state has optimisers {list(state)}, this model has {list(self)}"
            )
        for name, optimizer in self.items():
            optimizer.load_state_dict(state[name])
        self._stored = None
