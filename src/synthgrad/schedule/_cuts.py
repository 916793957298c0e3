"""Cuts a model into segments at its interfaces: by a look at its graph, or at its sequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from synthgrad import _checks, _sandbox
from synthgrad._graph import leaf_of, nodes_below
from synthgrad._sharing import Held, find_overlap
from synthgrad.context import context as in_context
from synthgrad.context import current_context
from synthgrad.decouple import named_interfaces, wrapper_kinds
from synthgrad.errors import LockingError
from synthgrad.functional import redirect
from synthgrad.interface import Interface, routed

LAST = "output"
"""The name of the segment that ends at the loss."""


@dataclass(eq=False)
class Segment:
    """A part of a model between cuts, named by the interface at its end.

    Attributes:
        name: the interface's name, else its path in the model; "output" for the last segment.
        interface: the one at its end; None for the last segment, which ends at the loss.
        parameters: the network's own parameters in it.
        inputs: the interfaces whose messages it receives.
        receivers: the segments that receive the message of its interface.
        fits: the interfaces whose feedback models can be fitted once it has run: no later segment
            receives their messages.
        unseen: the model's parameters that no segment used in the pass that was looked at, or that
            did not require grad; for the last segment.
        modules: what it runs, in order, where it can run alone.
    """

    name: str
    interface: Interface | None
    parameters: list[nn.Parameter] = field(default_factory=list)
    inputs: list[Interface] = field(default_factory=list)
    receivers: list[Segment] = field(default_factory=list)
    fits: list[Interface] = field(default_factory=list)
    unseen: list[nn.Parameter] = field(default_factory=list)
    modules: list[nn.Module] = field(default_factory=list)


def find_segments(
    model: nn.Module, x: Any, loss_fn: Callable[[Any], Tensor], context: Any = None
) -> list[Segment]:
    """Runs one forward pass, which leaves no trace and keeps no activations, and looks at it.

    Args:
        model: any module with interfaces.
        x: its input: one argument, a tuple of positional or a mapping of keyword arguments.
        loss_fn: makes the loss of its output.
        context: of conditional feedback models.

    Returns:
        The segments in the order in which they run.

    Raises:
        LockingError: a path goes around a cut, two segments share a parameter, an interface runs
            twice, or none of an interface's messages reaches the loss.
    """
    _refuse_wrapped(model)
    search = _Search(model)
    # Saved tensors are dropped: only the shape of the graph is wanted.
    drop = torch.autograd.graph.saved_tensors_hooks(lambda _: None, lambda _: torch.empty(0))
    context = current_context() if context is None else context
    with _sandbox.preserved(model), torch.enable_grad(), drop, in_context(context):
        with routed(search.cut):
            output = _sandbox.run(model, x)
        search.end(_checks.loss(loss_fn(output)), None)
    return search.finish(model)


class _Search:
    def __init__(self, model: nn.Module) -> None:
        self.segments: list[Segment] = []
        self.paths = named_interfaces(model, reserved=(LAST,))
        self.names = _names(model)
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
        senders = {segment.interface: segment for segment in self.segments}
        for interface in self.paths:
            receivers = [s for s in self.segments if interface in s.inputs]
            if not receivers:
                raise LockingError(
                    f"{interface.label}: no gradient reaches it, since the loss does not depend "
                    "on its message"
                )
            senders[interface].receivers = receivers
            receivers[-1].fits.append(interface)
        _refuse_shared(self.segments, self.names)
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


def find_parts(model: nn.Module) -> list[Segment]:
    """Cuts a model of sequential modules at its interfaces into segments that can run alone.

    Raises:
        LockingError: it is not an ``nn.Sequential``, an interface lies deeper than at the end of a
            module in the sequence, a sequence that is taken apart has hooks, or two segments share
            a parameter.
    """
    _refuse_wrapped(model)
    names = named_interfaces(model, reserved=(LAST,))
    parts = [Segment(LAST, None)]
    for module in _flat(model):
        inside = [m for m in module.modules() if isinstance(m, Interface)]
        parts[-1].modules.append(module)
        if len(inside) > 1:
            raise LockingError(
                f"{len(inside)} interfaces lie inside one {type(module).__name__}; to run alone, "
                "parts have to follow each other in an nn.Sequential"
            )
        if inside:
            parts[-1].interface, parts[-1].name = inside[0], names[inside[0]]
            above = Segment(LAST, None, inputs=[inside[0]], fits=[inside[0]])
            parts[-1].receivers = [above]
            parts.append(above)
    for part in parts:
        own = dict.fromkeys(p for module in part.modules for p in module.parameters())
        if part.interface is not None:
            for parameter in part.interface.parameters():
                own.pop(parameter, None)
        part.parameters = list(own)
    _refuse_shared(parts, _names(model))
    return parts


def _flat(model: nn.Module) -> list[nn.Module]:
    """The modules of nested sequences that hold interfaces; others stay whole."""
    if not _runs_in_order(model):
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
        holds = any(isinstance(module, Interface) for module in child.modules())
        found += _flat(child) if holds and _runs_in_order(child) else [child]
    return found


def _runs_in_order(module: nn.Module) -> TypeGuard[nn.Sequential]:
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _names(model: nn.Module) -> dict[Tensor, str]:
    return {parameter: name for name, parameter in model.named_parameters()}


def _refuse_wrapped(model: nn.Module) -> None:
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


def _refuse_shared(segments: Sequence[Segment], names: dict[Tensor, str]) -> None:
    """Refuses a parameter of two segments, also as two tensors with the same values in memory.

    Raises:
        LockingError: there is one; says which.
    """
    held = [[Held(repr(names.get(p)), p) for p in segment.parameters] for segment in segments]
    if (found := find_overlap(held)) is None:
        return
    one, other = (segments[position].name for position in found.segments)
    this, that = found.called
    what = (
        f"share a parameter, {this}"
        if found.same
        else f"share memory: their parameters {this} and {that} hold the same values"
    )
    raise LockingError(
        f"the segments ending at {one!r} and {other!r} {what}; one would change it before the "
        "other runs"
    )
