"""Finds the segments into which interfaces cut a model, and the paths that go around a cut."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from synthgrad import _checks
from synthgrad._graph import leaf_of, nodes_below
from synthgrad._sandbox import preserved
from synthgrad.context import context as in_context
from synthgrad.context import current_context
from synthgrad.decouple import named_interfaces, wrapper_kinds
from synthgrad.errors import LockingError, SynthgradWarning
from synthgrad.functional import redirect
from synthgrad.interface import Interface, routed

LAST = "output"
"""The name of the segment that ends at the loss."""


def warn_if_whole(model: nn.Module, pieces: int) -> None:
    """Says so where there is nothing to unlock: a forgotten cut trains, only not as was meant."""
    if pieces == 1:
        warnings.warn(
            f"{type(model).__name__} has no interface, so this schedule is plain backpropagation; "
            "expected one at least, by sg.decouple() or as a submodule",
            SynthgradWarning,
            stacklevel=4,
        )


def refuse_wrapped(model: nn.Module) -> None:
    """Refuses data-parallel wrappers, which reduce gradients at the end of one backward pass.

    A schedule has several, and updates in between: ranks would drift apart.

    Raises:
        LockingError: there is such a wrapper.
    """
    for module in model.modules():
        if isinstance(module, wrapper_kinds()):
            raise LockingError(
                f"a schedule updates segments before {type(module).__name__} has reduced their "
                "gradients, so ranks would drift apart; use the model inline: loss.backward() and "
                "one optimiser"
            )


def refuse_shared_memory(
    parameters: Mapping[str, Sequence[nn.Parameter]], names: Mapping[Tensor, str]
) -> None:
    """Refuses parameters of two segments that are different tensors with the same values in memory.

    Args:
        parameters: by segment.
        names: of the parameters.

    Raises:
        LockingError: there are such; says which.
    """
    owner: dict[tuple[Any, int], tuple[str, nn.Parameter]] = {}
    for segment, own in parameters.items():
        for parameter in own:
            if not parameter.numel() or parameter.is_meta:
                continue
            place = (parameter.device, parameter.data_ptr())
            other, twin = owner.setdefault(place, (segment, parameter))
            if other != segment:
                raise LockingError(
                    f"the segments ending at {other!r} and {segment!r} share memory: their "
                    f"parameters {names.get(twin)!r} and {names.get(parameter)!r} hold the same "
                    "values; one would change them before the other runs"
                )


@dataclass
class Segment:
    """A part of a model between cuts, named by the interface at its end.

    Attributes:
        name: the interface's name, else its path in the model; "output" for the last segment.
        interface: the one at its end; None for the last segment, which ends at the loss.
        parameters: the network's own parameters in it.
        inputs: the interfaces whose messages it receives.
        fits: those whose feedback models can be fitted once it has run: no later segment
            receives their messages.
        shared: whether more than one segment receives the message of its interface.
        unseen: the model's parameters that no segment used in this pass, or that did not require
            grad; for the last segment.
    """

    name: str
    interface: Interface | None
    parameters: list[nn.Parameter] = field(default_factory=list)
    inputs: list[Interface] = field(default_factory=list)
    fits: list[Interface] = field(default_factory=list)
    shared: bool = False
    unseen: list[nn.Parameter] = field(default_factory=list)


def find_segments(
    model: nn.Module, x: Any, loss_fn: Callable[[Any], Tensor], context: Any = None
) -> list[Segment]:
    """Runs one forward pass, which leaves no trace and keeps no activations, and looks at it.

    Warns where it finds no interface.

    Returns:
        The segments in the order in which they run.

    Raises:
        LockingError: a path goes around a cut, two segments share a parameter, an interface runs
            twice, or none of an interface's messages reaches the loss.
    """
    refuse_wrapped(model)
    search = _Search(model)
    # Saved tensors are dropped: only the shape of the graph is wanted.
    drop = torch.autograd.graph.saved_tensors_hooks(lambda _: None, lambda _: torch.empty(0))
    context = current_context() if context is None else context
    with preserved(model), torch.enable_grad(), drop, in_context(context):
        with routed(search.cut):
            output = model(x)
        search.end(_checks.loss(loss_fn(output)), None)
    warn_if_whole(model, len(search.segments))
    return search.finish(model)


class _Search:
    def __init__(self, model: nn.Module) -> None:
        self.segments: list[Segment] = []
        self.paths = named_interfaces(model, reserved=(LAST,))
        self.names: dict[Tensor, str] = {p: n for n, p in model.named_parameters()}
        self.owner: dict[Any, Segment] = {}  # of each node seen
        self.sender: dict[Tensor | None, Interface] = {}  # by the leaf under what receivers got

    def cut(self, interface: Interface, h: Tensor, context: Any) -> Tensor:
        if any(s.interface is interface for s in self.segments):
            raise LockingError(
                f"{interface.label} runs more than once in a forward pass; an unlocked schedule "
                "updates its segment at its first run. Use it inline instead"
            )
        # Refuses a wrong message or context before any update. A critic takes gradients for that,
        # so what its own graph saves must not be dropped.
        keep = torch.autograd.graph.saved_tensors_hooks(lambda t: t.detach(), lambda t: t)
        with torch.no_grad(), keep:
            interface.call(h, context)
        torch.clear_autocast_cache()  # torch 2.6 would take its weights cast here, without a graph
        self.end(h, interface)
        # What goes on hangs on an empty leaf, by which it is known, and keeps no message alive.
        leaf = torch.empty(0, requires_grad=True)
        self.sender[leaf] = interface
        return redirect(h.detach(), lambda delta: (None, None), [leaf])

    def end(self, tensor: Tensor, interface: Interface | None) -> None:
        segment = Segment(self.paths[interface] if interface else LAST, interface)

        def known(node: Any) -> bool:
            return self.owner.get(node, segment) is not segment

        for node in nodes_below(tensor, stop=known):
            leaf = leaf_of(node)
            sender = self._sender(node)
            if leaf is not None and leaf in self.sender:
                continue
            if sender is not None:
                self.owner[node] = segment
                segment.inputs.append(sender)
            elif not known(node):
                self.owner[node] = segment
                if isinstance(leaf, nn.Parameter):
                    segment.parameters.append(leaf)
            elif leaf is not None:
                raise LockingError(
                    f"the segments ending at {self.owner[node].name!r} and {segment.name!r} share "
                    f"the parameter {self.names.get(leaf, '(not of this model)')!r}; one would "
                    "change it before the other runs"
                )
            else:
                raise LockingError(
                    f"a path goes around the cut at {self.owner[node].name!r}: {node.name()}, "
                    f"which depends on {self._source(node)}, is used again in the segment ending "
                    f"at {segment.name!r}. Cut where all paths meet, or use the model inline"
                )
        self.segments.append(segment)

    def finish(self, model: nn.Module) -> list[Segment]:
        last_use = {interface: segment for segment in self.segments for interface in segment.inputs}
        for interface in self.paths:
            if interface not in last_use:
                raise LockingError(
                    f"{interface.label}: no gradient reaches it, since the loss does not depend "
                    "on its message"
                )
            last_use[interface].fits.append(interface)
        refuse_shared_memory({s.name: s.parameters for s in self.segments}, self.names)
        for segment in self.segments:
            uses = [s for s in self.segments if segment.interface in s.inputs]
            segment.shared = len(uses) > 1
        known = {p for segment in self.segments for p in segment.parameters}
        known.update(p for interface in self.paths for p in interface.parameters())
        self.segments[-1].unseen += [p for p in model.parameters() if p not in known]
        return self.segments

    def _sender(self, node: Any) -> Interface | None:
        """The interface whose message enters a segment at this node, if one does."""
        leaves = (leaf_of(below) for below, _ in node.next_functions if below is not None)
        return next((self.sender[leaf] for leaf in leaves if leaf in self.sender), None)

    def _source(self, node: Any) -> str:
        leaves = [leaf_of(below) for below in _with_all_below(node)]
        named = [self.names[leaf] for leaf in leaves if leaf is not None and leaf in self.names]
        return f"the parameter {named[0]!r}" if named else "an earlier message"


def _with_all_below(node: Any) -> list[Any]:
    queue = [node]
    for n in queue:
        queue += [below for below, _ in n.next_functions if below and below not in queue]
    return queue
