"""Networks that tick at different rates and do not wait for each other (2.3, 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from synthgrad import _checks
from synthgrad._finite import are_finite
from synthgrad._nest import floating, transform
from synthgrad._optimizers import MakeOptimizer
from synthgrad._sandbox import Statistics
from synthgrad._values import losses as shown
from synthgrad.context import context as in_context
from synthgrad.context import current_context
from synthgrad.errors import ArgumentError, LockingError, NonFiniteError
from synthgrad.multirate.carried import Carried
from synthgrad.multirate.nodes import Node, Ticked, first_ticks
from synthgrad.multirate.posts import Post
from synthgrad.multirate.unrolls import Unroll, check_state, detached


@dataclass
class _Tick:
    """What one tick is given, and what it finds; ``learns`` says whether anybody is trained."""

    inputs: Mapping[str, Any]
    losses: Mapping[str, Callable[[Any], Tensor]]
    context: Any
    learns: bool
    found: dict[str, Tensor] = field(default_factory=dict)


class MultiRate(Carried):
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

    In ``eval()`` or without grad :meth:`tick` only runs the graph.

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
        ArgumentError: the nodes form a cycle, periods do not divide each other, an input is
            unknown, an interface is none or its model is not fitted to errors, or two nodes share
            a parameter, an interface or a feedback model; says which. Or ``scale`` is not finite.
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
        super().__init__(nodes, streams)
        self.scale = _checks.number("scale", scale)
        _checks.function("optimizer", optimizer)
        _checks.functions(feedback_optimizer=feedback_optimizer)
        self._statistics = Statistics(self)
        self._first = first_ticks(self.nodes, self.order)
        interfaces = {key: edge.interface for key, edge in self._edges.items() if edge.interface}
        owner: dict[nn.Parameter | nn.Module, str] = {}
        for name in self.order:
            own = self._own(self.nodes[name].module, name, owner)
            self.optimizers.make(name, optimizer, own)
        for (source, name), interface in interfaces.items():
            label = f"{source} -> {name}"
            if owner.setdefault(interface.feedback, label) != label:  # it may remember
                raise ArgumentError(
                    f"{owner[interface.feedback]!r} and {label!r} share an interface or its "
                    "feedback model; each needs its own"
                )
            own = self._own(interface, label, owner)
            self.optimizers.make(label, feedback_optimizer or optimizer, own)

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
                    self._update([name for name in ticked if self._ends_unroll(name)])
        except BaseException:
            self._go_back(states, held, learns)
            if learns:
                self._statistics.put_back(whole=True)
            raise
        if learns:
            self._statistics.passed()
        return now.found

    @staticmethod
    def _own(
        module: nn.Module, name: str, owner: dict[nn.Parameter | nn.Module, str]
    ) -> list[nn.Parameter]:
        own = [parameter for parameter in module.parameters() if parameter.requires_grad]
        for parameter in own:
            if owner.setdefault(parameter, name) != name:
                raise ArgumentError(
                    f"{owner[parameter]!r} and {name!r} share a parameter; what is updated on its "
                    "own clock needs its own"
                )
        return own

    def _run(self, name: str, now: _Tick) -> bool:
        """Runs a node, unless something it hears has not come yet; returns whether it did."""
        node, unroll = self.nodes[name], self._unrolls[name]
        if any(s in self.nodes and self._edges[s, name].held is None for s in node.inputs):
            return False
        received = [
            transform(now.inputs[s], Tensor.clone)
            if s in self.streams
            else self._edges[s, name].receive(learns=now.learns)
            for s in node.inputs
        ]
        result = node.module(*received, unroll.state)
        if not isinstance(result, Ticked):
            raise LockingError(
                f"the module of node {name!r} returned {type(result).__name__}, expected a Ticked"
            )
        check_state(result.state, name)
        if now.learns:
            self._check(name, floating(result.state), f"the state that node {name!r} returned")
        unroll.state = result.state if now.learns else detached(result.state)
        unroll.ticks += now.learns
        if name in now.losses:
            loss = _checks.loss(now.losses[name](result.output))
            loss = shown(loss).mean() if loss.ndim else loss
            if now.learns:
                self._check(name, [loss], f"the loss of node {name!r}")
            now.found[name] = loss.detach()
            unroll.root(loss)
        for (source, receiver), edge in self._edges.items():
            if source != name or not self._is_received(name, receiver):
                continue
            if result.message is None:
                raise LockingError(f"node {name!r} sent no message, and {receiver!r} receives one")
            error = edge.send(result.message, now.context, learns=now.learns)
            if error is not None:
                assert edge.interface is not None
                edge.interface.check_synthetic(result.message, error)
                unroll.root(result.message, error * self.scale)
        return True

    def _is_received(self, sender: str, receiver: str) -> bool:
        """Whether what is sent now is used before the next message replaces it."""
        period = self.nodes[receiver].period
        last = self.time + max(0, self.nodes[sender].period - period)
        return last % period == 0 and last >= self._first[receiver]

    def _ends_unroll(self, name: str) -> bool:
        node = self.nodes[name]
        return self.time % (node.period * node.unroll) == 0

    def _update(self, names: Sequence[str]) -> None:
        """Updates nodes, and the models that predict the errors of what they received."""
        edges = {
            name: {s: self._edges[s, name] for s in self.nodes[name].inputs if s in self.nodes}
            for name in names
        }
        for name in names:
            self._clear(name)
            for source in edges[name]:
                self._clear(f"{source} -> {name}")
            self._unrolls[name].backward()
        for name in names:  # before anything is stepped
            for edge in edges[name].values():
                edge.collect()
            self._check_gradients(name, self.nodes[name].module)
        for name in names:
            unroll = self._unrolls[name]
            if unroll.roots and name in self.optimizers:
                self.optimizers[name].step()
            for source, edge in edges[name].items():
                once = self.nodes[name].period >= self.nodes[source].period
                label = f"{source} -> {name}"
                if edge.fit(now=once) and label in self.optimizers:
                    assert edge.interface is not None
                    self._check_gradients(name, edge.interface.feedback)
                    self.optimizers[label].step()
            self.updates[name] += 1
            self._unrolls[name] = Unroll(detached(unroll.state))

    def _check(self, name: str, tensors: Sequence[Tensor], what: str) -> None:
        if self._checks(name) and not are_finite(tensors):
            bad = sum(int((~tensor.isfinite()).sum()) for tensor in tensors)
            raise NonFiniteError(
                f"{what} has {bad} non-finite values (NaN or infinity) of "
                f"{sum(tensor.numel() for tensor in tensors)}; expected finite ones. Nothing was "
                "updated with it"
            )

    def _check_gradients(self, name: str, module: nn.Module) -> None:
        grads = {n: p.grad for n, p in module.named_parameters() if p.grad is not None}
        if self._checks(name) and not are_finite(list(grads.values())):
            bad = next(n for n, grad in grads.items() if not are_finite([grad]))
            self._check(name, [grads[bad]], f"at node {name!r} the gradient of {bad!r}")

    def _checks(self, name: str) -> bool:
        """Whether a node's own losses and gradients are checked: unless its interfaces say no."""
        own = [e.interface for key, e in self._edges.items() if name in key and e.interface]
        return all(interface.check_finite is True for interface in own)

    def _clear(self, name: str) -> None:
        if name in self.optimizers:
            self.optimizers[name].zero_grad()

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
