"""The trainer of the two networks: T² ticks at a step, whatever the method."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import synthgrad as sg
from synthgrad.errors import NonFiniteError
from synthgrad.feedback import MLP
from synthgrad.lab.data import DataSet
from synthgrad.lab.multinetwork.config import MultiNetworkConfig
from synthgrad.lab.multinetwork.networks import Answers, Joint, NetworkA, NetworkB, errors
from synthgrad.lab.multinetwork.stream import Streams, rounds
from synthgrad.lab.rates import Rate, adam
from synthgrad.lab.runs.divergence import check_weights, most_common_error

ROUNDS = 4
"""How often each test digit is seen in a test."""

Losses = dict[str, Callable[[Any], Tensor]]


def _apart(config: MultiNetworkConfig, a: NetworkA, b: NetworkB) -> dict[str, sg.Node]:
    """The two networks on clocks of their own."""
    period, interfaces = config.unroll, {}
    if config.method in ("dni", "cdni"):
        context = config.unroll + 1 if config.method == "cdni" else 0
        hidden = (config.units,) if config.feedback_hidden is None else config.feedback_hidden
        interfaces["a"] = sg.Interface(MLP(config.units, hidden, context), name="message")
    return {
        "a": sg.Node(a, ["digits"], unroll=period),
        "b": sg.Node(b, ["a"], period, period, interfaces),
    }


class MultiNetworkTrainer:
    """Trains network A and network B by one method (3.2).

    After each step of T² ticks both networks were just updated, so that nothing but weights,
    optimisers and statistics is carried over.

    Args:
        config: all settings, settled.
        data: the digits, on the device.

    Attributes:
        step: training steps done.
        finished: whether there is nothing left to do before the last step; never.
        a: network A.
        b: network B.
        graph: what ticks: one node with both networks, or one for each.
    """

    finished = False

    def __init__(self, config: MultiNetworkConfig, data: DataSet) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        device = data.train_x.device
        held = len(data.train_x) - config.validation
        x, y = data.train_x[:held], data.train_y[:held]
        self._streams = Streams(x, y, config.batch_size, config.unroll, config.seed)
        tested = {"validation": (data.train_x[held:], data.train_y[held:])}
        tested |= {"test": (data.test_x, data.test_y)}
        self._tested = {
            name: rounds(*part, config.unroll, ROUNDS)
            for name, part in tested.items()
            if len(part[0])
        }
        # The networks first: the same weights whatever the method.
        self.a = NetworkA(x[0].numel(), config.units, config.unroll)
        self.b = NetworkB(config.units, config.unroll)
        if config.method == "backprop":
            nodes = {"joint": sg.Node(Joint(self.a, self.b), ["digits"], unroll=config.ticks)}
        else:
            nodes = _apart(config, self.a, self.b)
        for node in nodes.values():
            for module in (node.module, *node.interfaces.values()):
                module.to(device)
        rates = (config.learning_rate, config.feedback_learning_rate)
        own, others = (partial(adam, rate=Rate(rate, device)) for rate in rates)
        assert config.scale is not None, "it is settled"
        self.graph = sg.MultiRate(
            nodes, ["digits"], own, scale=config.scale, feedback_optimizer=others
        )
        self.step = 0
        self._totals = torch.zeros(2, device=device)
        self._since = 0

    @property
    def chance(self) -> dict[str, float]:
        """The test errors of whoever always guesses the most common counts."""
        tested = self._tested["test"]
        counted = {"test_error_a": tested.odd, "test_error_b": tested.threes_in_all}
        return {name: most_common_error(counts) for name, counts in counted.items()}

    @property
    def samples(self) -> int:
        """Digits that all rows have seen."""
        return self.step * self.config.ticks * self.config.batch_size

    def summary(self) -> dict[str, Any]:
        """How often each network was updated; as one graph, both at once."""
        return {"updates": dict(self.graph.updates)}

    def advance(self) -> None:
        """T² ticks."""
        seen = self._streams.at(self.step)
        unroll = self.config.unroll
        for tick, digits in enumerate(seen.digits, start=1):
            window, into = divmod(tick, unroll)
            odd = None if into else seen.odd[window - 1]
            context = None if into else seen.threes[window - 1]
            threes = seen.threes_in_all if tick == self.config.ticks else None
            self.graph.tick({"digits": digits}, self._losses(odd, threes), context)
        self._since += 1
        self.step += 1

    def _losses(self, odd: Tensor | None, threes: Tensor | None) -> Losses:
        """The losses of a tick, each a mean over the rows."""
        if self.config.method == "backprop":
            return {} if odd is None else {"joint": partial(self._both, odd, threes)}
        losses: Losses = {}
        if odd is not None:
            losses["a"] = partial(self._one, 0, odd)
        if threes is not None:
            losses["b"] = partial(self._one, 1, threes)
        return losses

    def _both(self, odd: Tensor, threes: Tensor | None, answers: Answers) -> Tensor:
        loss = self._one(0, odd, answers.odd)
        return loss if threes is None else loss + self._one(1, threes, answers.threes)

    def _one(self, network: int, counted: Tensor, answer: Tensor | None) -> Tensor:
        assert answer is not None, "it answers at this tick"
        loss = F.cross_entropy(answer, counted)
        self._totals[network] += loss.detach()
        return loss

    def evaluate(self) -> dict[str, float]:
        """Mean losses since the last evaluation, and error rates (in percent) now.

        Returns:
            ``train_loss_a``, ``train_loss_b``, ``test_error_a``, ``test_error_b``, the same for
            ``validation`` where images are held out, and ``ticks``: digits that each row has seen.

        Raises:
            NonFiniteError: a training loss was NaN or infinite.
        """
        self._check()
        since = max(self._since, 1)
        totals = self._totals / torch.tensor([self.config.unroll, 1], device=self._totals.device)
        values: dict[str, float] = dict(
            zip(("train_loss_a", "train_loss_b"), (totals / since).tolist(), strict=True)
        )
        self._totals.zero_()
        self._since = 0
        for name, tested in self._tested.items():
            wrong_a, wrong_b = errors(self.a, self.b, tested)
            values |= {f"{name}_error_a": wrong_a, f"{name}_error_b": wrong_b}
        values["ticks"] = float(self.step * self.config.ticks)
        return values

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on.

        Raises:
            NonFiniteError: a training loss or a weight is not finite.
        """
        self._check()
        check_weights(self.a)
        check_weights(self.b)
        return {
            "step": self.step,
            "graph": self.graph.state_dict(),
            "totals": self._totals,
            "since": self._since,
        }

    def _check(self) -> None:
        losses = self._totals.tolist()
        if not all(map(math.isfinite, losses)):
            raise NonFiniteError(f"the training losses of A and B sum up to {losses}")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to the moment of :meth:`state_dict`."""
        self.step = state["step"]
        self.graph.load_state_dict(state["graph"])
        self._totals.copy_(state["totals"])
        self._since = state["since"]
