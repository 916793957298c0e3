"""Two networks that tick at different rates and talk to each other (2.3, 3.2, D.3; figure 5)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

import synthgrad as sg
from synthgrad.errors import NonFiniteError
from synthgrad.feedback import MLP
from synthgrad.lab.data import DataSet, load
from synthgrad.lab.errors import UsageError
from synthgrad.lab.experiment import Axis, Experiment, Metric, Trainer
from synthgrad.lab.experiments.digit_counters import Answers, Joint, NetworkA, NetworkB, errors
from synthgrad.lab.experiments.digit_streams import Streams, rounds
from synthgrad.lab.experiments.rates import Rate, adam
from synthgrad.lab.runs.divergence import check_weights, most_common_error
from synthgrad.lab.runs.memory import A_PARAMETER, BASE, widths
from synthgrad.lab.settings import MOST_THREADS, Settings

Method = Literal["backprop", "none", "dni", "cdni"]
Schedule = Literal["ours", "paper"]


class MultiNetworkConfig(Settings):
    """The options of ``multi-network``.

    Raises:
        UsageError: a value is outside its range; says which, what came and what was expected.
    """

    only_with: ClassVar[Mapping[str, tuple[str, tuple[str, ...]]]] = dict.fromkeys(
        ("feedback_hidden", "scale", "feedback_learning_rate"), ("method", ("dni", "cdni"))
    )

    method: Method = "cdni"
    """What error comes back to network A from B: the real one, with both networks as one graph
    that is updated every T² ticks; none; or a synthetic gradient, from a model that sees the
    message, or (cdni) also how many threes the last T digits had. With all but backprop A is
    updated every T ticks, and B every T²."""
    unroll: Annotated[int, Field(ge=1)] = 4
    """T: network B ticks once in T ticks of A. A answers every T ticks, B every T²."""
    units: Annotated[int, Field(ge=1)] = 64
    """Units of every layer of both networks, and values of a message (the paper: 256)."""
    feedback_hidden: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    """Widths of the feedback model's hidden layers; with no number after it, a linear model; by
    default one as wide as the networks."""
    scale: Annotated[float, Field(ge=0)] | None = None
    """What the synthetic gradient is multiplied by before it enters network A; by default what
    suits the method (the paper: 10)."""
    batch_size: Annotated[int, Field(ge=2)] = 64
    """Rows, each a stream of its own."""
    iterations: Annotated[int, Field(ge=0)] = 0
    """Training steps of T² ticks each; 0 for what suits the recipe."""
    learning_rate: Annotated[float, Field(ge=0)] = 0
    """Adam's, for both networks; 0 for what suits the method."""
    feedback_learning_rate: Annotated[float, Field(ge=0)] = 0
    """Adam's, for the feedback model; 0 for what suits the method, or that of the networks."""
    schedule: Schedule = "ours"
    """What suits a method: "ours", or the "paper"'s iterations at 1e-5."""
    validation: Annotated[int, Field(ge=0)] = 0
    """Training images held out, to choose settings by; the test set is not for that."""
    eval_every: Annotated[int, Field(ge=1)] = 50
    """Steps between evaluations."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 500
    """Steps between checkpoints; more where they would take over a twentieth of the time."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Of the weights and the streams."""
    device: str = "auto"
    """Where to run: cpu, cuda, cuda:1, or auto for a GPU where there is one."""
    threads: Annotated[int, Field(ge=0, le=MOST_THREADS)] = 0
    """CPU threads; 0 leaves the choice to PyTorch."""

    def folder_name(self, recipe: str) -> str:
        """By recipe, T, method and seed."""
        return f"{recipe}-T{self.unroll}-{self.method}-seed{self.seed}"

    @property
    def ticks(self) -> int:
        """Ticks of one training step, after which both networks have answered: T²."""
        return self.unroll**2


PAPER: Mapping[str, Any] = {"iterations": 100_000, "learning_rate": 1e-5}
"""D.3; the figure's curves are stable after 100k steps."""

SCALE = 10.0
"""What the paper's synthetic gradient is multiplied by (D.3)."""
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


class MultiNetworkTrainer(Trainer):
    """Trains network A and network B by one method (3.2).

    After each step of T² ticks both networks were just updated, so that nothing but weights,
    optimisers and statistics is carried over.

    Args:
        config: all settings, settled.
        data: the digits, on the device.

    Attributes:
        a: network A.
        b: network B.
        graph: what ticks: one node with both networks, or one for each.
    """

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


@dataclass(frozen=True)
class MultiNetwork(Experiment[MultiNetworkConfig, DataSet]):
    """Two networks on one stream of images, and the settings that suit them.

    Attributes:
        iterations: what suits this recipe.
        suits: what suits a method: any of ``learning_rate``, ``feedback_learning_rate``, ``scale``.
    """

    metrics: ClassVar = (
        Metric("test_error_a", "Test error of network A, %", 2, "test error a {:.2f}%"),
        Metric(
            "test_error_b",
            "Test error of network B, %",
            2,
            "test error b {:.2f}%",
            outcome="test error of network B {:.2f}%",
        ),
        *(
            Metric(
                f"validation_error_{network.lower()}",
                f"Validation error of network {network}, %",
                2,
                f"validation error {network.lower()} {{:.2f}}%",
            )
            for network in "AB"
        ),
        *(
            Metric(
                f"train_loss_{network.lower()}",
                f"Training loss of network {network}",
                progress=f"loss {network.lower()} {{:.4f}}",
            )
            for network in "AB"
        ),
        Metric("ticks"),
    )
    charts: ClassVar = (
        Axis("test_error_a", "Test error of network A (odd digits)", "test error, %", over="ticks"),
        Axis("test_error_b", "Test error of network B (threes)", "test error, %", over="ticks"),
    )
    methods: ClassVar = {
        "backprop": "the true error comes back from network B to A, which wait for each other",
        "none": "no error comes back from B to A",
        "dni": "a synthetic gradient comes back to A, from a model that sees its message to B",
        "cdni": "the same from a model that also sees the count of threes in the last T digits",
    }

    iterations: int
    suits: Mapping[str, Mapping[str, Any]]

    @property
    def paper(self) -> Mapping[str, Any]:
        """The paper's iterations and rate."""
        return PAPER

    def suited(self, config: MultiNetworkConfig) -> Mapping[str, Any]:
        """What suits the method."""
        if config.schedule == "paper":
            return {"scale": SCALE, **PAPER}
        return {"scale": SCALE, "iterations": self.iterations, **self.suits[config.method]}

    def memory(self, config: MultiNetworkConfig) -> int:
        """About how many bytes training needs."""
        units, ticks, batch = config.units, config.ticks, config.batch_size
        hidden = (units,) if config.feedback_hidden is None else config.feedback_hidden
        parameters = units * (784 + 18 * units + config.unroll + ticks)
        parameters += widths((units, *hidden, units))
        kept = 20 * config.unroll * units  # the statistics of each step
        if config.method == "backprop":  # of T² ticks, rather than of T
            seen = ticks * batch * 30 * units
        else:
            seen = config.unroll * batch * 30 * units
        return BASE + A_PARAMETER * parameters + 4 * (seen + 2 * ticks * batch * 784 + 3 * kept)

    def load(self, root: Path | None, device: torch.device) -> DataSet:
        """The digits, on the device."""
        return load(self.data, root=root, device=device)

    def build(
        self, config: MultiNetworkConfig, data: DataSet, device: torch.device
    ) -> MultiNetworkTrainer:
        """What trains them; ``device`` is that of the data.

        Raises:
            UsageError: there are too few images for a batch, or to test on.
        """
        room, needed = len(data.train_x) - config.validation, config.batch_size * config.ticks
        if needed > room:
            raise UsageError(
                f"--batch-size: {config.batch_size} rows see {needed} digits in a step of "
                f"{config.ticks} ticks, more than the {room} training images"
            )
        least = min(n for n in (len(data.test_x), config.validation) if n)
        if least < config.ticks:
            raise UsageError(
                f"--unroll: a test takes {config.ticks} digits a row for T = {config.unroll}, and "
                f"there are only {least}"
            )
        return MultiNetworkTrainer(config, data)


# Chosen on 5,000 training images held out, after 1,500 iterations. The networks are a quarter as
# wide as the paper's (docs/log.md).
_MULTI_NETWORK = MultiNetwork(
    "multi-network",
    "Figure 5",
    "mnist",
    MultiNetworkConfig(),
    2000,
    {
        "backprop": {"learning_rate": 2e-3},
        "none": {"learning_rate": 1e-3},
        "dni": {"learning_rate": 3e-4, "feedback_learning_rate": 1e-3},
        "cdni": {"learning_rate": 1e-3, "scale": 3.0},
    },
)

RECIPES = {_MULTI_NETWORK.name: _MULTI_NETWORK}
