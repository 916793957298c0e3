"""A sequential model as parts that can each run alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from synthgrad.decouple import named_interfaces
from synthgrad.errors import LockingError
from synthgrad.interface import Interface, routed
from synthgrad.schedule.segments import LAST, refuse_shared_memory, warn_if_whole

Sent = Callable[[Interface, Tensor, Any], None]


@dataclass
class Part:
    """The modules between two cuts.

    Attributes:
        name: that of the interface at its end; "output" for the last part.
        below: the interface whose message it receives; None for the first part.
        above: the one at its end; None for the last part.
        modules: what it runs, in order.
    """

    name: str
    below: Interface | None
    above: Interface | None = None
    modules: list[nn.Module] = field(default_factory=list)

    def parameters(self) -> list[nn.Parameter]:
        """The network's own parameters in it."""
        found = dict.fromkeys(p for module in self.modules for p in module.parameters())
        if self.above is not None:
            for parameter in self.above.parameters():
                found.pop(parameter, None)
        return list(found)

    def run(self, x: Any) -> tuple[Any, Any]:
        """What it makes of its input, and the context that its interface sees.

        Raises:
            LockingError: its interface does not come last.
        """
        seen: list[tuple[Tensor, Any]] = []

        def cut(interface: Interface, h: Tensor, context: Any) -> Tensor:
            seen.append((h, context))
            return h

        with routed(cut):
            for module in self.modules:
                x = module(x)
        if self.above is None:
            return x, None
        if len(seen) != 1 or seen[0][0] is not x:
            raise LockingError(
                f"{self.above.label} ran {len(seen)} times in its part, or its message went on "
                "inside it; it has to come last, once"
            )
        return seen[0]


def find_parts(model: nn.Module) -> list[Part]:
    """Cuts a model of sequential modules at its interfaces; warns where it has none.

    Raises:
        LockingError: it is not an ``nn.Sequential``, an interface lies deeper than at the end of a
            module in the sequence, a sequence that is taken apart has hooks, or two parts share a
            parameter.
    """
    names = named_interfaces(model, reserved=(LAST,))
    parts = [Part(LAST, None)]
    for module in _flat(model):
        inside = [m for m in module.modules() if isinstance(m, Interface)]
        parts[-1].modules.append(module)
        if len(inside) > 1:
            raise LockingError(
                f"{len(inside)} interfaces lie inside one {type(module).__name__}; to run alone, "
                "parts have to follow each other in an nn.Sequential"
            )
        if inside:
            parts[-1].above, parts[-1].name = inside[0], names[inside[0]]
            parts.append(Part(LAST, inside[0]))
    warn_if_whole(model, len(parts))
    owner: dict[nn.Parameter, str] = {}
    for part in parts:
        for parameter in part.parameters():
            if not parameter.requires_grad:
                continue
            if owner.setdefault(parameter, part.name) != part.name:
                raise LockingError(
                    f"the parts ending at {owner[parameter]!r} and {part.name!r} share a parameter"
                )
    own = {part.name: part.parameters() for part in parts}
    refuse_shared_memory(own, {p: n for n, p in model.named_parameters()})
    return parts


def _flat(model: nn.Module) -> list[nn.Module]:
    """The modules of nested sequences that hold interfaces; others stay whole."""
    if not (isinstance(model, nn.Sequential) and type(model).forward is nn.Sequential.forward):
        raise LockingError(
            f"parts can run alone only in an nn.Sequential, got {type(model).__name__}"
        )
    if model._forward_hooks or model._forward_pre_hooks:
        raise LockingError(
            f"a sequence of {len(model)} modules has forward hooks, which would not be called, "
            "since its modules run one by one; expected them on modules that hold no interface"
        )
    found: list[nn.Module] = []
    for child in model:
        plain = isinstance(child, nn.Sequential) and type(child).forward is nn.Sequential.forward
        if plain and any(isinstance(m, Interface) for m in child.modules()):
            found += _flat(child)
        else:
            found.append(child)
    return found
