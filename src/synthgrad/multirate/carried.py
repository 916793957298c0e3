"""The state of a multi-rate graph: carried by its nodes and edges, saved, moved and copied."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

from torch import Tensor, nn

from synthgrad._extra_state import packed, unpacked
from synthgrad._nest import transform
from synthgrad._optimizers import Optimizers
from synthgrad.errors import ArgumentError, LockingError
from synthgrad.multirate.nodes import Node, in_order
from synthgrad.multirate.posts import Edge
from synthgrad.multirate.unrolls import Unroll, settled


class Carried(nn.Module):
    """Nodes and edges, and what they carry from one tick to the next.

    It can be saved, moved and copied where it is at rest.

    Args:
        nodes: by name.
        streams: the names of the inputs from outside.

    Raises:
        ArgumentError: as for :func:`synthgrad.multirate.nodes.in_order`.
    """

    def __init__(self, nodes: Mapping[str, Node], streams: Sequence[str]) -> None:
        super().__init__()
        self.order = in_order(nodes, streams)
        self.nodes = dict(nodes)
        self.streams = tuple(streams)
        self.time = 0
        self.updates = dict.fromkeys(self.order, 0)
        self.optimizers = Optimizers()
        self.members = nn.ModuleList([self.nodes[name].module for name in self.order])
        self._edges = {
            (source, name): Edge(node.interfaces.get(source))
            for name, node in self.nodes.items()
            for source in node.inputs
            if source in self.nodes
        }
        self.interfaces = nn.ModuleList(
            edge.interface for edge in self._edges.values() if edge.interface
        )
        self._unrolls = {name: Unroll() for name in self.order}

    @property
    def at_rest(self) -> bool:
        """Whether every node was just updated, so that there is no graph to lose."""
        return not any(unroll.ticks for unroll in self._unrolls.values())

    def reset(self) -> None:
        """Forgets states, messages and what was not updated yet; time begins anew."""
        self.time = 0
        self._unrolls = {name: Unroll() for name in self.order}
        self._edges = {key: Edge(edge.interface) for key, edge in self._edges.items()}

    def carried_state(self) -> dict[str, Any]:
        """Time, carried states, held messages and optimisers.

        Raises:
            LockingError: a node is in the middle of its unroll.
        """
        self._expect_rest("be saved")
        like = {name: self._like(name) for name in self.order}
        return {
            "time": self.time,
            "updates": dict(self.updates),
            "states": {name: unroll.state for name, unroll in self._unrolls.items()},
            "edges": {f"{a} -> {b}": edge.kept() for (a, b), edge in self._edges.items()},
            "optimizers": self.optimizers.state_dict(),
            "like": {name: None if t is None else t.new_empty(0) for name, t in like.items()},
        }

    def get_extra_state(self) -> Tensor:
        """:meth:`carried_state` as one tensor (:mod:`synthgrad._extra_state`).

        Raises:
            LockingError: a node is in the middle of its unroll.
        """
        return packed(self.carried_state())

    def set_extra_state(self, state: Any) -> None:
        """Restores it, on this graph's device and in its precision.

        Args:
            state: a tensor, or what version 0.1 kept, the dictionary itself.

        Raises:
            ArgumentError: it cannot be read, as that of an average of several graphs; or it belongs
                to other nodes, edges or optimisers. Nothing of it was restored.
        """
        if isinstance(state, Tensor):
            try:
                state = unpacked(state)
            except ValueError as error:
                raise ArgumentError(
                    f"the state of a multi-rate graph cannot be read ({error}); expected that of "
                    "one graph, as its state_dict() gives it"
                ) from None
        edges = {f"{a} -> {b}": (a, edge) for (a, b), edge in self._edges.items()}
        own = {"states": self._unrolls, "edges": edges, "optimizers": self.optimizers}
        for kind, mine in own.items():
            if state[kind].keys() != mine.keys():
                raise ArgumentError(
                    f"the state has {kind} for {sorted(state[kind])}, expected those of this "
                    f"graph, {sorted(mine)}"
                )
        self.optimizers.load_state_dict(state["optimizers"])
        self.time, self.updates = state["time"], dict(state["updates"])
        was = state.get("like", {})
        for name, kept in state["states"].items():
            self._unrolls[name] = Unroll(settled(kept, self._like(name), was.get(name)))
        for label, (sender, edge) in edges.items():
            kept = settled(state["edges"][label], self._like(sender), was.get(sender))
            edge.restore(kept)

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles.

        Raises:
            LockingError: a node is in the middle of its unroll.
        """
        self._expect_rest("be copied")
        return self.__dict__

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        self._expect_rest("be moved or converted")  # .to(), .double() and the like come here
        super()._apply(fn, recurse)
        for unroll in self._unrolls.values():
            unroll.state = transform(unroll.state, fn)
        for edge in self._edges.values():
            edge.restore(transform(edge.kept(), fn))
        for optimizer in self.optimizers.values():
            for state in optimizer.state.values():
                # Optimisers keep their steps where and as they want them.
                state.update({k: transform(v, fn) for k, v in state.items() if k != "step"})
        return self

    def _expect_rest(self, to: str) -> None:
        if not self.at_rest:
            busy = [name for name, unroll in self._unrolls.items() if unroll.ticks]
            together = math.lcm(*(node.period * node.unroll for node in self.nodes.values()))
            raise LockingError(
                f"{busy} are in the middle of their unroll at time {self.time}, and a graph cannot "
                f"{to}; expected a time at which every node was just updated (at_rest), such as "
                f"the multiples of {together}, or reset()"
            )

    def _like(self, name: str) -> Tensor | None:
        """A tensor on the device and in the precision of a node; of another if it has none."""
        own = self.nodes[name].module.parameters()
        return next((p for p in chain(own, self.parameters()) if p.is_floating_point()), None)
