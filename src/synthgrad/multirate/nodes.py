"""The nodes of a multi-rate graph, and what makes a graph of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any, NamedTuple

from torch import Tensor, nn

from synthgrad import _checks
from synthgrad.errors import ArgumentError
from synthgrad.interface import Interface


class Ticked(NamedTuple):
    """What a node's module returns from one tick.

    Attributes:
        output: what its own loss is computed from; None where it has none.
        message: what nodes above it receive, "batch ..."; None where there are none.
        state: what its next tick starts from, a tensor or a nest of tensors, or None.
    """

    output: Any
    message: Tensor | None
    state: Any = None


@dataclass(frozen=True)
class Node:
    """A module with a clock of its own.

    Attributes:
        module: called as ``module(*inputs, state)``, with None as the first state; returns a
            :class:`Ticked`.
        inputs: what it receives, in order: the message of another node, or a stream from outside.
        period: it ticks when that many ticks of the fastest clock have passed since it last did.
        unroll: its own ticks between two updates; errors flow back in time that far.
        interfaces: for each of its ``inputs`` that is a node, what predicts the error of that
            node's messages; an input without one gives no error back.
    """

    module: nn.Module
    inputs: Sequence[str]
    period: int = 1
    unroll: int = 1
    interfaces: Mapping[str, Interface] = field(default_factory=dict)


def in_order(nodes: Mapping[str, Node], streams: Sequence[str]) -> list[str]:
    """The names of the nodes, each after those that it receives from.

    Raises:
        ArgumentError: they make no graph, as :class:`MultiRate` says.
    """
    _check_names("streams", streams)
    _checks.mapping("nodes", nodes)
    for name, node in nodes.items():
        if name in streams:
            raise ArgumentError(f"{name!r} is both a node and a stream")
        _check_node(name, node, nodes, streams)
    edges = {name: [s for s in node.inputs if s in nodes] for name, node in nodes.items()}
    try:
        order = list(TopologicalSorter(edges).static_order())
    except CycleError as error:
        around = " -> ".join(map(repr, error.args[1]))
        raise ArgumentError(f"the nodes form a cycle: {around}") from None
    for name, sources in edges.items():
        for source in sources:
            fast, slow = sorted((nodes[name].period, nodes[source].period))
            if slow % fast:
                raise ArgumentError(
                    f"node {name!r} has period {nodes[name].period} and receives {source!r}, which "
                    f"has period {nodes[source].period}; expected one to divide the other"
                )
    return order


def first_ticks(nodes: Mapping[str, Node], order: Sequence[str]) -> dict[str, int]:
    """The time of each node's first tick, when a message of every node that it hears has come.

    Args:
        nodes: by name.
        order: as :func:`in_order` gives it.
    """
    first: dict[str, int] = {}
    for name in order:
        heard = max((first[s] for s in nodes[name].inputs if s in nodes), default=1)
        first[name] = -(-heard // nodes[name].period) * nodes[name].period  # rounded up
    return first


def _check_names(what: str, names: Any) -> None:
    if isinstance(names, str):
        raise ArgumentError(f"{what} must be a list of names, got {names!r}; expected [{names!r}]")
    for name in _checks.sequence(what, names):
        _checks.text(what, name)


def _check_node(name: str, node: Node, nodes: Mapping[str, Node], streams: Sequence[str]) -> None:
    _checks.of_kind(f"node {_checks.text('the name of a node', name)!r}", node, Node, "a Node")
    _checks.module(f"the module of node {name!r}", node.module)
    _check_names(f"inputs of node {name!r}", node.inputs)
    for option, value in (("period", node.period), ("unroll", node.unroll)):
        _checks.integer(f"{option} of node {name!r}", value, 1)
    for source in node.inputs:
        if source not in nodes and source not in streams:
            known = ", ".join(map(repr, (*nodes, *streams)))
            raise ArgumentError(
                f"node {name!r} receives {source!r}, which is neither a node nor a stream; "
                f"there are {known}"
            )
    _checks.mapping(f"interfaces of node {name!r}", node.interfaces)
    for source, interface in node.interfaces.items():
        if source not in node.inputs or source not in nodes:
            raise ArgumentError(
                f"node {name!r} has an interface for {source!r}, which is no node that it "
                "receives from"
            )
        _check_interface(interface, name, source)


def _check_interface(interface: Any, name: str, source: str) -> None:
    if not isinstance(interface, Interface):
        raise ArgumentError(
            f"node {name!r} has a {type(interface).__name__} for {source!r}; expected an "
            "interface, such as synthgrad.Interface(synthgrad.feedback.MLP(256))"
        )
    feedback = interface.feedback
    if feedback.fitted_to != "error":
        raise ArgumentError(
            f"node {name!r} has a {type(feedback).__name__} for {source!r}, which is fitted to the "
            f"{feedback.fitted_to}; expected a feedback model that is fitted to the error, since "
            "nothing else comes back between nodes"
        )
