"""Networks that tick at different rates and do not wait for each other (2.3, 3.2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from synthgrad import _checks
from synthgrad._extra_state import packed, unpacked
from synthgrad._finite import are_finite
from synthgrad._nest import floating, transform
from synthgrad._optimizers import MakeOptimizer, Optimizers
from synthgrad._sandbox import Statistics
from synthgrad._values import losses as shown
from synthgrad.context import context as in_context
from synthgrad.context import current_context
from synthgrad.errors import ArgumentError, LockingError, NonFiniteError
from synthgrad.multirate._edge import Edge, Post
from synthgrad.multirate._unroll import Unroll, check_state, detached, settled
from synthgrad.multirate.nodes import Node, Ticked, first_ticks, in_order


@dataclass
class _Tick:
    """What one tick is given, and what it finds; ``learns`` says whether anybody is trained."""

    inputs: Mapping[str, Any]
    losses: Mapping[str, Callable[[Any], Tensor]]
    context: Any
    learns: bool
    found: dict[str, Tensor] = field(default_factory=dict)


class MultiRate(nn.Module):
    """A directed acyclic graph of modules, each with its own period, updated on its own clock.

    At time t = 1, 2, … the nodes whose period divides t tick, senders before receivers. A node runs
    on the newest messages and on its state. Where ``period * unroll`` divides t it is updated, with
    the losses of its ticks since the last time and, for each message of them that somebody
    received, the synthetic error that the interface on that edge predicted at once: a fast node
    does not wait for a slow one. When the slow one is updated in its turn, the real errors of the
    messages it received fit those interfaces' models. A message to a faster node is held, and its
    target is the sum over the ticks that used it.

    A node does not tick before each of its inputs has come once, so its first unroll may be shorter
    than the others. A message that is replaced before its receiver ticks for the first time is
    received by nobody. What a node receives is a copy, which it may work on in place.

    Args:
        nodes: by name.
        streams: the names of the inputs from outside.
        optimizer: makes an optimiser from the parameters of a node or of a feedback model, for
            example ``functools.partial(torch.optim.Adam, lr=1e-3)``.
        scale: what synthetic errors are multiplied by where they are consumed (10 in D.3).
        feedback_optimizer: the same as ``optimizer`` for feedback models, where they want another.

    Attributes:
        time: ticks of the fastest clock so far.
        optimizers: by name: one per node, and one per interface, as "sender -> receiver".
        updates: how often each node has been updated, by name.

    Raises:
        ArgumentError: the nodes form a cycle, periods do not divide each other or are no positive
            integers, an input is unknown, an interface is none, is no input's or its model is not
            fitted to errors, or two nodes share a parameter, an interface or a feedback model; says
            which. Or ``scale`` is not finite.
    """

    def __init__(
        self,
        nodes: Mapping[str, Node],
        streams: Sequence[str],
        optimizer: MakeOptimizer,
        *,
        scale: float = 1.0,
        feedback_optimizer: MakeOptimizer | None = None,
    ) -> None:
        super().__init__()
        self.order = in_order(nodes, streams)
        self.nodes = dict(nodes)
        self.streams = tuple(streams)
        self.scale = _checks.number("scale", scale)
        _checks.function("optimizer", optimizer)
        _checks.functions(feedback_optimizer=feedback_optimizer)
        self.time = 0
        self.updates = dict.fromkeys(self.order, 0)
        self.members = nn.ModuleList([self.nodes[name].module for name in self.order])
        self._edges = {
            (source, name): Edge(f"{source} -> {name}", node.interfaces.get(source))
            for name, node in self.nodes.items()
            for source in node.inputs
            if source in self.nodes
        }
        self.interfaces = nn.ModuleList(e.interface for e in self._edges.values() if e.interface)
        self._unrolls = {name: Unroll() for name in self.order}
        self._statistics = Statistics(self)
        self._first = first_ticks(self.nodes, self.order)
        self.optimizers = Optimizers()
        self._make_optimizers(optimizer, feedback_optimizer or optimizer)

    def _make_optimizers(self, optimizer: MakeOptimizer, feedback_optimizer: MakeOptimizer) -> None:
        """One for each node and each interface, which may share nothing that is updated."""
        owner: dict[nn.Parameter | nn.Module, str] = {}

        def make(label: str, module: nn.Module, optimizer: MakeOptimizer) -> None:
            own = [parameter for parameter in module.parameters() if parameter.requires_grad]
            for parameter in own:
                claim(label, parameter, "a parameter")
            self.optimizers.make(label, optimizer, own)

        def claim(label: str, thing: nn.Parameter | nn.Module, what: str) -> None:
            if owner.setdefault(thing, label) != label:
                raise ArgumentError(
                    f"{owner[thing]!r} and {label!r} share {what}; each is updated on its own "
                    "clock and needs its own"
                )

        for name in self.order:
            make(name, self.nodes[name].module, optimizer)
        for edge in self._edges.values():
            if edge.interface is not None:  # its model may remember
                claim(edge.label, edge.interface.feedback, "an interface or its feedback model")
                make(edge.label, edge.interface, feedback_optimizer)

    def tick(
        self,
        inputs: Mapping[str, Any],
        losses: Mapping[str, Callable[[Any], Tensor]] | None = None,
        context: Any = None,
    ) -> dict[str, Tensor]:
        """One tick of the fastest clock: whoever is due runs, and is updated if that is due.

        In ``eval()`` or without grad the nodes run, and states, messages and time go on, but nobody
        is updated, and feedback models neither predict nor learn: it is how a graph is evaluated.

        Where a tick fails, by whatever exception, time, states and messages are again those before
        it. In training all unrolls that were open are dropped, and the errors that were awaited
        with them: nodes keep their states, and training goes on with the next tick. No weights
        have changed, unless it was an optimiser or a feedback model's fit that failed, and the
        statistics that modules keep (batch norm's) are again those before. A wrong argument drops
        nothing.

        Args:
            inputs: by stream, what comes from outside now.
            losses: by node, from its output to a scalar, or to the loss of each example, "batch",
                whose mean is then taken; for nodes that have a loss at this time. Those of a node
                that does not tick now are not called.
            context: what conditional feedback models see besides; by default that of
                :func:`synthgrad.context`.

        Returns:
            The losses of the nodes that ticked, by name, detached scalars.

        Raises:
            ArgumentError: a stream is missing, or a loss is for no node.
            LockingError: a module returned no :class:`Ticked`, a state that is no nest of tensors,
                or no message though others receive from it; an interface's ``lambda_`` is not 0;
                or the graph is to be evaluated while a node is in the middle of its unroll.
            NonFiniteError: a synthetic error, a loss, an error that came back or a gradient holds
                NaN or infinity; nobody was updated.
        """
        _checks.mapping("inputs", inputs)
        losses = {} if losses is None else _checks.mapping("losses", losses)
        _checks.functions(**{f"the loss of {name!r}": one for name, one in losses.items()})
        if missing := [name for name in self.streams if name not in inputs]:
            raise ArgumentError(f"no input for the streams {missing}, got {list(inputs)}")
        if unknown := [name for name in losses if name not in self.nodes]:
            raise ArgumentError(f"losses for {unknown}, the nodes are {self.order}")
        learns = self.training and torch.is_grad_enabled()
        if not learns:
            self._expect_rest("be evaluated")
        context = current_context() if context is None else context
        now = _Tick(inputs, losses, context, learns)
        if learns:
            self._statistics.keep()
        states = {name: detached(unroll.state) for name, unroll in self._unrolls.items()}
        held = {key: edge.held for key, edge in self._edges.items()}
        self.time += 1
        try:
            # What inference mode makes could not be trained on later.
            with torch.inference_mode(False), torch.set_grad_enabled(learns), in_context(context):
                due = [name for name in self.order if self.time % self.nodes[name].period == 0]
                ticked = [name for name in due if self._run(name, now)]
                if learns:
                    self._update(ticked)
        except BaseException:
            self._go_back(states, held, learns)
            raise
        if learns:
            self._statistics.passed()
        return now.found

    @property
    def at_rest(self) -> bool:
        """Whether every node was just updated, so that there is no graph to lose."""
        return not any(unroll.ticks for unroll in self._unrolls.values())

    def reset(self) -> None:
        """Forgets states, messages and what was not updated yet; time begins anew."""
        self.time = 0
        self._unrolls = {name: Unroll() for name in self.order}
        for edge in self._edges.values():
            edge.held = None
            edge.forget()

    def _run(self, name: str, now: _Tick) -> bool:
        """Runs a node, unless something it hears has not come yet; returns whether it did."""
        node, unroll, heard = self.nodes[name], self._unrolls[name], self._heard_by(name)
        if any(edge.held is None for edge in heard.values()):
            return False
        received = [
            heard[source].receive(learns=now.learns)
            if source in heard
            else transform(now.inputs[source], Tensor.clone)
            for source in node.inputs
        ]
        result = node.module(*received, unroll.state)
        if not isinstance(result, Ticked):
            raise LockingError(
                f"the module of node {name!r} returned {type(result).__name__}, expected a Ticked"
            )
        check_state(result.state, name)
        if now.learns:
            state = enumerate(floating(result.state))
            self._check(name, {f"tensor {i} of the state of node {name!r}": t for i, t in state})
        unroll.state = result.state if now.learns else detached(result.state)
        unroll.ticks += now.learns
        if name in now.losses:
            self._take_loss(name, now.losses[name](result.output), now)
        self._send(name, result.message, now)
        return True

    def _take_loss(self, name: str, loss: Any, now: _Tick) -> None:
        """Takes in what a node's loss function returned."""
        loss = _checks.loss(loss)
        loss = shown(loss).mean() if loss.ndim else loss
        if now.learns:
            self._check(name, {f"the loss of node {name!r}": loss})
        now.found[name] = loss.detach()
        self._unrolls[name].root(loss)

    def _send(self, name: str, message: Any, now: _Tick) -> None:
        """Sends a node's message to all who will receive it."""
        for (sender, receiver), edge in self._edges.items():
            if sender != name or not self._is_received(name, receiver):
                continue
            if message is None:
                raise LockingError(f"node {name!r} sent no message, and {receiver!r} receives one")
            error = edge.send(message, now.context, learns=now.learns)
            if error is not None:
                self._unrolls[name].root(message, error * self.scale)

    def _heard_by(self, name: str) -> dict[str, Edge]:
        """The edges to a node, by sender."""
        return {s: self._edges[s, name] for s in self.nodes[name].inputs if s in self.nodes}

    def _is_received(self, sender: str, receiver: str) -> bool:
        """Whether what is sent now is used before the next message replaces it."""
        period = self.nodes[receiver].period
        last = self.time + max(0, self.nodes[sender].period - period)
        return last % period == 0 and last >= self._first[receiver]

    def _update(self, ticked: Sequence[str]) -> None:
        """Updates nodes whose unroll ends, and the models of the errors of what they received."""
        nodes = self.nodes
        names = [n for n in ticked if self.time % (nodes[n].period * nodes[n].unroll) == 0]
        for name in names:
            for label in (name, *(edge.label for edge in self._heard_by(name).values())):
                if label in self.optimizers:
                    self.optimizers[label].zero_grad()
            self._unrolls[name].backward()
        for name in names:  # before anything is stepped
            for edge in self._heard_by(name).values():
                edge.collect()
            self._check(name, _gradients(name, nodes[name].module))
        for name in names:
            unroll = self._unrolls[name]
            if unroll.roots and name in self.optimizers:
                self.optimizers[name].step()
            for source, edge in self._heard_by(name).items():
                once = nodes[name].period >= nodes[source].period
                fitted = edge.fit(now=once)
                if fitted is not None and edge.label in self.optimizers:
                    self._check(name, _gradients(name, fitted))
                    self.optimizers[edge.label].step()
            self.updates[name] += 1
            self._unrolls[name] = Unroll(detached(unroll.state))

    def _check(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Refuses NaN and infinity at a node, unless one of its interfaces says not to look."""
        own = [edge.interface for key, edge in self._edges.items() if name in key]
        looks = all(interface is None or interface.check_finite is True for interface in own)
        if looks and not are_finite(list(tensors.values())):
            what, bad = next((w, t) for w, t in tensors.items() if not are_finite([t]))
            raise NonFiniteError(
                f"{what} has {int((~bad.isfinite()).sum())} non-finite values (NaN or infinity) of "
                f"{bad.numel()}; expected finite ones. Nothing was updated with it"
            )

    def _go_back(
        self, states: Mapping[str, Any], held: Mapping[Any, Post | None], learns: bool
    ) -> None:
        """To before a tick that failed; what was waiting for an update is forgotten in training."""
        self.time -= 1
        self._unrolls = {name: Unroll(state) for name, state in states.items()}
        for key, edge in self._edges.items():
            edge.held = held[key]
            if learns:
                edge.forget()
        if learns:
            self._statistics.put_back(whole=True)

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
            "edges": {edge.label: edge.kept() for edge in self._edges.values()},
            "optimizers": self.optimizers.state_dict(),
            "like": {name: None if t is None else t.new_empty(0) for name, t in like.items()},
        }

    def get_extra_state(self) -> Tensor:
        """:meth:`carried_state` as one tensor (:mod:`synthgrad._extra_state`)."""
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
        edges = {edge.label: (sender, edge) for (sender, _), edge in self._edges.items()}
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
        """For copies and pickles; at rest alone."""
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


def _gradients(name: str, module: nn.Module) -> dict[str, Tensor]:
    """What a module at a node is about to be updated with, by what it is."""
    parameters = module.named_parameters()
    where = f"at node {name!r} the gradient of"
    return {f"{where} {n!r}": p.grad for n, p in parameters if p.grad is not None}
