"""Segments that skip: what stays as it is, what it costs, and what is counted."""

import copy
import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import SGD, Adam
from torch.testing import assert_close

import synthgrad as sg
from synthgrad.errors import ArgumentError, LockingError
from synthgrad.feedback import MLP, Feedback, Zero
from synthgrad.schedule._chance import Chance
from tests.networks import FanOut, awake, chain, hidden, squares

adam = partial(Adam, lr=0.01)
NAMES = ["0", "1", "2", "output"]


def _model(feedback: str | Callable[[Tensor], Feedback] = "linear") -> nn.Module:
    model = chain([4, 5, 5, 5, 3])
    x = torch.randn(4, 4).double()
    return awake(sg.decouple(model, hidden(model), feedback, example_inputs=x))


def _batch():
    return torch.randn(6, 4).double(), squares(torch.randn(6, 3).double())


def _moved(model, before):
    """Which of the model's children have other weights now; "2.interface" for feedback models."""
    parts = set()
    for name, value in model.state_dict().items():
        if "extra_state" not in name and not torch.equal(value, before[name]):
            parts.add(f"{name[0]}.interface" if "interface" in name else name[0])
    return parts


@given(going=st.sets(st.sampled_from(NAMES)), seed=st.integers(0, 99))
def test_who_goes_is_updated_and_fits_what_is_below_it_and_nothing_else_moves(going, seed):
    torch.manual_seed(seed)
    model = _model()
    schedule = sg.Sporadic(model, adam, {name: float(name in going) for name in NAMES})
    before = copy.deepcopy(model.state_dict())
    for _ in range(2):
        schedule.step(*_batch())
    expected = {"3" if name == "output" else name for name in going}
    expected |= {f"{below}.interface" for below, above in pairwise(NAMES) if above in going}
    assert _moved(model, before) == expected
    assert schedule.updates == {name: 2 * (name in going) for name in NAMES}


def test_a_segment_that_skips_costs_no_backward_work():
    model = _model()
    ran = []
    for name in NAMES[:3]:
        for part, what in ((f"{name}.0", name), (f"{name}.interface.feedback", f"fit {name}")):
            weight = next(model.get_submodule(part).parameters())
            weight.register_hook(lambda grad, what=what: ran.append(what))
    schedule = sg.Sporadic(model, adam, {"0": 0.0, "1": 1.0, "2": 0.0, "output": 0.0})
    schedule.step(*_batch())
    assert sorted(ran) == ["1", "fit 0"]


def test_how_often_segments_go_agrees_with_their_probabilities():
    torch.manual_seed(0)
    p = {"0": 0.1, "1": 0.5, "2": 0.9}
    schedule = sg.Sporadic(_model(), partial(SGD, lr=0.0), p)
    steps = 400
    for _ in range(steps):
        schedule.step(*_batch())
    for name, often in p.items():
        deviation = math.sqrt(steps * often * (1 - often))
        assert abs(schedule.updates[name] - steps * often) < 4 * deviation
    assert schedule.updates["output"] == steps


def test_segments_choose_independently_and_in_any_order():
    chance = Chance(0.5, "random", None)
    chance.among(NAMES)
    chosen = [tuple(chance.draw()) for _ in range(2000)]
    assert len({frozenset(going) for going in chosen}) == 16
    assert len({going for going in chosen if len(going) == 4}) == 24


def test_a_message_to_two_gives_a_target_only_if_both_go():
    for going in (0.0, 1.0):
        model = FanOut(4, 5, 3).double()
        awake(sg.decouple(model, ["first", "second"], "linear"))
        weight = next(model.get_submodule("first.interface.feedback").parameters())
        before = weight.clone()
        sg.Sporadic(model, adam, {"second": going}).step(*_batch())
        assert torch.equal(weight, before) == (going == 0)


def test_a_resumed_run_goes_on_bit_for_bit():
    def run(steps, model, schedule):
        torch.manual_seed(1)
        generator.manual_seed(steps)
        for _ in range(steps):
            schedule.step(*_batch())

    generator = torch.Generator()
    model = _model(lambda h: MLP(5, (6,)))
    schedule = sg.Sporadic(model, adam, 0.5, generator=generator)
    run(3, model, schedule)
    twin = copy.deepcopy(model)
    other = sg.Sporadic(twin, adam, 0.5, generator=generator)
    other.load_state_dict(copy.deepcopy(schedule.state_dict()))
    assert other.state_dict()["updates"] == schedule.updates
    run(4, model, schedule)
    run(4, twin, other)
    assert other.updates == schedule.updates
    assert_close(twin.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_a_generator_decides_alone():
    def chosen(seed):
        torch.manual_seed(seed)
        schedule = sg.Sporadic(_model(), adam, 0.5, generator=torch.Generator().manual_seed(5))
        return [dict(schedule.updates) for _ in range(5) if schedule.step(*_batch()) is not None]

    assert chosen(1) == chosen(2)


def test_it_learns_though_segments_seldom_go():
    torch.manual_seed(0)
    x = torch.randn(256, 4)
    y = (x[:, 0] * x[:, 1] > 0).long()
    layers = [nn.Sequential(nn.Linear(a, 32), nn.BatchNorm1d(32), nn.ReLU()) for a in (4, 32)]
    model = nn.Sequential(*layers, nn.Linear(32, 2))
    sg.decouple(model, ["0", "1"], "linear", context=2)
    schedule = sg.Sporadic(model, adam, 0.2)
    losses = [
        schedule.step(x, lambda output: nn.functional.cross_entropy(output, y), y)
        for _ in range(600)
    ]
    assert losses[-1] < 0.2  # guessing: 0.69
    assert all(80 < count < 160 for count in schedule.updates.values())


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan"), {"0": 2.0}])
def test_a_probability_outside_its_range_is_named(p):
    with pytest.raises(ArgumentError, match=r"p_update must lie in \[0, 1\], got"):
        sg.Sporadic(_model(), adam, p)


def test_other_mistakes_are_named():
    with pytest.raises(ArgumentError, match=r"p_update names \['5'\], the model's parts are"):
        sg.Sporadic(_model(), adam, {"5": 0.5}).step(*_batch())
    model = sg.decouple(chain([4, 5, 3]), "0", "linear", lambda_=0.5)
    with pytest.raises(LockingError, match=r"lambda_ is 0\.5 .* expected lambda_=0"):
        sg.Sporadic(model, adam).step(*_batch())
    with pytest.raises(LockingError, match="eval mode"):
        sg.Sporadic(_model().eval(), adam).step(*_batch())


def test_an_unknown_order_is_named(as_installed):
    with pytest.raises(ArgumentError, match='order must be "random" or "forward", got \'up\''):
        sg.Sporadic(_model(), adam, order="up")  # type: ignore[arg-type]


def test_models_that_fit_nothing():
    schedule = sg.Sporadic(_model(lambda h: Zero()), adam, 0.5)
    for _ in range(5):
        schedule.step(*_batch())
    assert sorted(schedule.optimizers) == NAMES
