"""A model's parameters, the network's and the feedback models' apart."""

from __future__ import annotations

from torch import nn

from synthgrad.errors import ArgumentError
from synthgrad.interface import Interface
from synthgrad.recurrent import RecurrentInterface


def network_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The network's own parameters: what it would have without interfaces, in its own order.

    For gradient clipping, which should not mix the two, and for rates of their own::

        torch.nn.utils.clip_grad_norm_(sg.network_parameters(model), 1.0)

    A weight that a feedback model shares with the network is the network's.

    Raises:
        ArgumentError: ``model`` is no module.
    """
    found: dict[nn.Parameter, None] = {}
    _collect(_checked(model), found, set())
    return list(found)


def feedback_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of all interfaces in a model: feedback, auxiliary and synthetic input models.

    Every parameter of the model is either one of these or one of :func:`network_parameters`.

    Raises:
        ArgumentError: ``model`` is no module.
    """
    own = set(network_parameters(model))
    return [parameter for parameter in model.parameters() if parameter not in own]


def _collect(module: nn.Module, found: dict[nn.Parameter, None], seen: set[nn.Module]) -> None:
    if module in seen or isinstance(module, Interface | RecurrentInterface):
        return
    seen.add(module)
    found.update(dict.fromkeys(p for p in module._parameters.values() if p is not None))
    for child in module.children():
        _collect(child, found, seen)


def _checked(model: nn.Module) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise ArgumentError(f"expected a torch.nn.Module, got {type(model).__name__}")
    return model
