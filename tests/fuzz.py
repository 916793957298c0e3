"""Calls of the public Python names with arguments of the wrong kind, value or shape.

Every call that fails has to end in an error of synthgrad's own, or in that of the user's own code.
``python -m tests.fuzz 10000`` makes so many calls and prints those that do not; the tests make a
few hundred (``tests/test_fuzz.py``).
"""

from __future__ import annotations

import copy
import decimal
import fractions
import random
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import synthgrad as sg
from synthgrad import functional
from synthgrad.distributed import Options, Stage, cut
from synthgrad.errors import SynthgradError
from synthgrad.feedback import MLP, Conv, Critic, Linear, Stale, Zero


class Plain(nn.Module):
    """A user's network, whose own errors are his."""

    def __init__(self) -> None:
        super().__init__()
        self.below, self.above = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Any) -> Any:
        return self.above(self.below(x).relu())


class Anything:
    """A class that can be called with whatever comes."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass


class Value(nn.Module):
    """A critic's value."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(6, 1)

    def forward(self, h: Any, context: Any) -> Any:
        return self.line(h).squeeze(-1)


class Ticks(nn.Module):
    """A node of a multi-rate graph."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(4, 4)

    def forward(self, x: Any, state: Any) -> sg.Ticked:
        h = self.line(x)
        return sg.Ticked(h, h, None)


def optimizer(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.01)


def mean(output: Any, *_: Any) -> Any:
    return output.square().mean()


def decoupled() -> nn.Module:
    return sg.decouple(Plain(), "below", "linear")


def _odd() -> list[Any]:
    """What nobody should pass, or only to some arguments; new objects at each call."""
    row = torch.randn(5, 6)
    return [
        *(None, True, False, -1, 0, 1, 3, 10**12, 10**30, -0.5, 0.3, 2.0, 1j),
        *(float("nan"), float("inf"), "", "x", "mean", b"x", object(), Ellipsis, NotImplemented),
        *(fractions.Fraction(1, 2), decimal.Decimal("0.5"), range(3), slice(1)),
        *(np.int64(2), np.float32(0.5), np.bool_(True), np.ones(3), np.ones((5, 6), np.float32)),
        *([], (), {}, set(), [1, "a"], ["below", 1], {"a": 1}, {1: 2}, [[1]], (None,), [row, row]),
        *(row, row.T.contiguous(), row.double(), row.half(), row[:0], row[0], row[0, 0]),
        *(row.clone().requires_grad_(), row.bool(), row.long(), row.to(torch.complex64)),
        *(row.to_sparse(), row.to("meta"), torch.full((5, 6), float("nan")), torch.tensor(3)),
        *(torch.zeros(0), torch.zeros(5, 6, 0), torch.randint(3, (5,)), torch.randn(5, 3, 6)),
        *(torch.randint(-9, 99, (5,)), torch.randn(2, 6, 3, 3), torch.ones(5, dtype=torch.bool)),
        *(torch.float16, torch.int64, torch.device("cpu"), torch.Generator(), torch.strided),
        *(lambda *_, **__: None, lambda *_, **__: 1, lambda *_, **__: "x", Anything),
        *(nn.Linear(6, 3), nn.Sequential(), nn.ReLU(), nn.ModuleList([nn.ReLU()]), Plain()),
        *(Zero(), Stale(0.5), Linear(6), Conv(6), Critic(Value()), MLP(6, (3,), 3)),
        *(sg.Interface(Zero()), decoupled(), nn.Parameter(row), row.numpy(), iter([1])),
    ]


@dataclass(frozen=True)
class Target:
    """One public call: what makes its right arguments anew, and what calls it with them."""

    right: Callable[[], dict[str, Any]]
    call: Callable[..., Any]


def _step(kind: Callable[..., Any], **options: Any) -> Target:
    def call(x: Any, loss_fn: Any, context: Any) -> None:
        kind(decoupled(), optimizer, **options).step(x, loss_fn, context)

    return Target(lambda: {"x": torch.randn(5, 4), "loss_fn": mean, "context": None}, call)


def _sent(h: Any, context: Any) -> None:
    interface = sg.Interface(Linear(6, context=3), name="it")
    message = interface(h, context)
    if message.requires_grad:
        message.square().sum().backward()


def _unlocked(h: Any, context: Any) -> None:
    message, _ = sg.Interface(MLP(6, (4,), 3), name="it").send(h, context)
    message.square().sum().backward()


def _chunk(state: Any, message: Any, ended: Any, fresh: Any, steps: Any) -> None:
    bridge = sg.RecurrentInterface(Linear(6), auxiliary=Linear(6))
    state = bridge.begin(state, ended=ended, fresh=fresh)
    bridge.end(state, message, ended=ended, steps=steps)


def _between(state: Any, message: Any, lambda_: Any) -> None:
    bridge = sg.RecurrentInterface(Linear(6))
    bridge.between(bridge.begin(state), message, lambda_)


def _multirate(nodes: Any = None, streams: Any = ("x",), **options: Any) -> sg.MultiRate:
    if nodes is None:
        edge = {"a": sg.Interface(Linear(4))}
        nodes = {"a": sg.Node(Ticks(), ["x"]), "b": sg.Node(Ticks(), ["a"], 2, 1, edge)}
    return sg.MultiRate(nodes, streams, **{"optimizer": optimizer, **options})


def _node(module: Any, inputs: Any, period: Any, unroll: Any, interfaces: Any) -> None:
    first = sg.Node(Ticks(), ["x"])
    _multirate({"a": first, "b": sg.Node(module, inputs, period, unroll, interfaces)})


def _ticked(output: Any, message: Any, state: Any) -> None:
    class Says(nn.Module):
        def forward(self, x: Any, before: Any) -> sg.Ticked:
            return sg.Ticked(output, message, state)

    edge = {"a": sg.Interface(Linear(6))}
    graph = _multirate({"a": sg.Node(Says(), ["x"]), "b": sg.Node(Ticks(), ["a"], 1, 1, edge)})
    graph.tick({"x": torch.randn(5, 4)})


def _in_context(c: Any) -> None:
    model = sg.decouple(Plain(), "below", "linear", context=3)
    with sg.context(c):
        model(torch.randn(5, 4)).sum().backward()


def _stage(**given: Any) -> None:
    Stage(**given)


def _targets() -> dict[str, Target]:
    x, h, y = torch.randn(5, 4), torch.randn(5, 6), torch.tensor([0, 1, 2, 0, 1])
    message = torch.randn(5, 6, requires_grad=True)
    schedule = {"model": Plain(), "optimizer": optimizer, "feedback_optimizer": None}
    chances = {**schedule, "p_update": 0.5, "order": "random", "generator": None}
    sized = {"features": 6, "context": 3, "out_features": 6}
    state = torch.randn(5, 6)
    right: dict[str, tuple[dict[str, Any], Callable[..., Any]]] = {
        "Linear": (sized, Linear),
        "MLP": ({**sized, "hidden": (4, 3), "batch_norm": True}, MLP),
        "Conv": ({"channels": 6, "hidden": (4,), "kernel_size": 3, "context": 3}, Conv),
        "Critic": ({"value": Value()}, Critic),
        "Stale": ({"decay": 0.9}, Stale),
        "SyntheticInput": (
            {"inputs": 4, "features": 6, "hidden": (5,), "context": 3},
            sg.inputs.SyntheticInput,
        ),
        "Linear()": ({"h": h, "context": y}, lambda **g: Linear(6, 3)(**g)),
        "MLP()": ({"h": h, "context": y}, lambda **g: MLP(6, (4,), 3)(**g)),
        "Conv()": ({"h": torch.randn(5, 6, 3, 3), "context": y}, Conv(6, (4,), 3, 3)),
        "Critic()": ({"h": h, "context": y}, Critic(Value())),
        "Stale()": ({"h": h, "context": None}, lambda **g: Stale(0.5)(**g)),
        "Zero()": ({"h": h, "context": None}, Zero()),
        "SyntheticInput()": ({"h": x, "context": y}, sg.inputs.SyntheticInput(4, 6, (5,), 3)),
        "Linear.loss": ({"h": h, "target": h, "context": None}, Linear(6).loss),
        "Critic.loss": ({"h": h, "target": h[:, 0], "context": None}, Critic(Value()).loss),
        "Stale.observe": ({"target": h}, lambda **g: Stale(0.5).observe(**g)),
        "Interface": (
            {
                "feedback": Linear(6),
                "lambda_": 0.5,
                "reduction": "mean",
                "batch_dim": 0,
                "name": "it",
                "check_finite": True,
                "inputs": None,
            },
            sg.Interface,
        ),
        "Interface()": ({"h": message, "context": y}, _sent),
        "Interface.send": ({"h": message, "context": y}, _unlocked),
        "context": ({"c": y}, _in_context),
        "losses": ({"per_example": torch.randn(5, requires_grad=True)}, sg.losses),
        "loss": ({"loss": torch.randn(1, requires_grad=True).sum()}, sg.loss),
        "recouple": ({"model": decoupled()}, sg.recouple),
        "network_parameters": ({"model": decoupled()}, sg.network_parameters),
        "feedback_parameters": ({"model": decoupled()}, sg.feedback_parameters),
        "probe": ({"model": decoupled(), "loss_fn": mean, "x": x, "context": None}, sg.probe),
        "decouple": (
            {
                "model": Plain(),
                "at": "below",
                "feedback": "linear",
                "context": 0,
                "lambda_": 0.0,
                "example_inputs": x,
                "reduction": "mean",
                "batch_dim": None,
                "check_finite": True,
                "inputs": None,
            },
            sg.decouple,
        ),
        "Unlocked": (schedule, sg.Unlocked),
        "Sporadic": (chances, sg.Sporadic),
        "FullyUnlocked": ({**chances, "input_optimizer": None}, sg.FullyUnlocked),
        "RecurrentInterface": (
            {
                "feedback": Linear(6),
                "scale": 0.1,
                "auxiliary": Linear(6),
                "last_core": None,
                "feedback_into_core": False,
                "reduction": "mean",
                "batch_dim": 0,
                "name": "it",
                "check_finite": True,
            },
            sg.RecurrentInterface,
        ),
        "RecurrentInterface.end": (
            {"state": state, "message": h, "ended": False, "fresh": None, "steps": h[None]},
            _chunk,
        ),
        "RecurrentInterface.between": ({"state": state, "message": h, "lambda_": 0.5}, _between),
        "Node": (
            {"module": Ticks(), "inputs": ["x"], "period": 2, "unroll": 1, "interfaces": {}},
            _node,
        ),
        "Ticked": ({"output": h, "message": message, "state": state}, _ticked),
        "MultiRate": (
            {
                "nodes": {"a": sg.Node(Ticks(), ["x"])},
                "streams": ["x"],
                "optimizer": optimizer,
                "scale": 1.0,
                "feedback_optimizer": None,
            },
            sg.MultiRate,
        ),
        "MultiRate.tick": (
            {"inputs": {"x": x}, "losses": {"a": mean}, "context": None},
            lambda **given: _multirate().tick(**given),
        ),
        "mix": ({"real": h, "synthetic": h, "lambda_": 0.5}, functional.mix),
        "mixture": ({"synthetic": [h, h], "lambdas": [0.5]}, functional.mixture),
        "per_example": ({"delta": h, "reduction": "mean"}, functional.per_example),
        "per_loss": ({"delta_hat": h, "reduction": "mean"}, functional.per_loss),
        "squared_error": ({"prediction": h, "target": h}, functional.squared_error),
        "regression_grad": (
            {"synthetic": h, "delta": h, "reduction": "mean"},
            functional.regression_grad,
        ),
        "redirect": (
            {"h": message, "respond": lambda delta: (delta,), "others": (), "saved": ()},
            functional.redirect,
        ),
        "cut": ({"model": nn.Sequential(Plain(), Plain(), Plain()), "stages": 2}, cut),
        "Options": (
            {
                "window": 8,
                "target_every": 1,
                "message_dtype": None,
                "synchronous": False,
                "alone": None,
                "timeout": 10.0,
                "patience": 10.0,
                "checkpoint_every": 10.0,
                "folder": None,
                "interface": None,
                "fingerprint": "",
            },
            Options,
        ),
        "Stage": (
            {
                "segment": Plain(),
                "index": 0,
                "stages": 2,
                "store": "127.0.0.1:1",
                "optimizer": optimizer,
                "feedback": Linear(6),
                "loss_fn": None,
                "feedback_optimizer": None,
                "inputs": None,
                "input_optimizer": None,
                "batches": lambda step: (x, y),
                "before_step": None,
                "evaluation": None,
                "evaluate_every": 0,
                "metric": None,
                "on_result": None,
                "options": Options(),
            },
            _stage,
        ),
    }
    made = {
        name: Target(lambda given=given: _anew(given), call)
        for name, (given, call) in right.items()
    }
    return made | {
        "Unlocked.step": _step(sg.Unlocked),
        "Sporadic.step": _step(sg.Sporadic, p_update=0.7),
        "FullyUnlocked.step": _step(sg.FullyUnlocked),
    }


def _anew(given: dict[str, Any]) -> dict[str, Any]:
    """Copies, since a call may change its arguments; what has a graph goes as it is."""
    return {name: copy.deepcopy(v) if _copies(v) else v for name, v in given.items()}


def _copies(value: Any) -> bool:
    return isinstance(value, nn.Module) or (isinstance(value, Tensor) and value.is_leaf)


@dataclass(frozen=True)
class Raw:
    """A call that ended in an error which is neither synthgrad's nor the user's."""

    target: str
    given: str
    error: str
    where: str

    def __str__(self) -> str:
        return f"{self.target}({self.given}): {self.error} [{self.where}]"


def fuzz(count: int, seed: int) -> Iterator[Raw | None]:
    """Makes so many calls; yields None for one that is all right."""
    chance = random.Random(seed)
    targets = _targets()
    names = sorted(targets)
    odd: list[Any] = []
    for number in range(count):
        if number % 200 == 0:
            odd = _odd()
        torch.manual_seed(number)
        name = names[number % len(names)]  # each as often as the others
        given = targets[name].right()
        wrong = chance.sample(sorted(given), chance.choice([1, 1, 1, min(2, len(given))]))
        replaced = {argument: chance.choice(odd) for argument in wrong}
        given |= {
            argument: copy.copy(value) if _copies(value) else value
            for argument, value in replaced.items()
        }
        yield _tried(name, targets[name], given, replaced)


def _tried(
    name: str, target: Target, given: dict[str, Any], replaced: dict[str, Any]
) -> Raw | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            target.call(**given)
    except SynthgradError:
        return None
    except Exception as error:
        if _is_the_users(error, given):
            return None
        frames = traceback.extract_tb(error.__traceback__)
        ours = [f for f in frames if "synthgrad" in f.filename]
        where = f"{ours[-1].filename.rpartition('synthgrad/')[2]}:{ours[-1].lineno}" if ours else ""
        said = ", ".join(f"{argument}={_shown(value)}" for argument, value in replaced.items())
        text = " ".join(f"{type(error).__name__}: {error}".split())[:120]
        return Raw(name, said, text, where)
    return None


def _is_the_users(error: BaseException, given: dict[str, Any]) -> bool:
    """Whether an error comes out of code that the user handed in: below the library's last frame.

    Code of his is a function of this file, or a module of his that is no feedback model.
    """
    modules = {
        id(part)
        for value in given.values()
        if isinstance(value, nn.Module) and not isinstance(value, sg.feedback.Feedback)
        for part in value.modules()
        if not isinstance(part, sg.feedback.Feedback | sg.Interface)
    }
    below: list[Any] = []
    step, inside = error.__traceback__, False
    while step is not None:
        code = step.tb_frame.f_code
        if "/synthgrad/" in code.co_filename:
            below, inside = [], True
        elif inside:
            below.append(step.tb_frame)
        step = step.tb_next
    return any(
        frame.f_code.co_filename == __file__ or id(frame.f_locals.get("self")) in modules
        for frame in below
    )


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} {tuple(value.shape)} {value.layout} {value.device}"
    return " ".join(repr(value).split())[:60]


def main(count: int, seed: int) -> int:
    found = [raw for raw in fuzz(count, seed) if raw is not None]
    for raw in found:
        print(raw)
    print(f"{count} calls, {len(found)} that end in an error of nobody's")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
