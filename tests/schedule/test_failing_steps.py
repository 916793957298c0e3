"""A step that fails leaves nothing behind that is not finite, whatever the schedule."""

import copy
import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils._pytree import tree_leaves

import synthgrad as sg
from synthgrad.errors import LockingError, NonFiniteError
from synthgrad.feedback import Linear, Stale
from tests.schedule.own import everybody

ADAM = partial(torch.optim.Adam, lr=1e-2)
SCHEDULES = {
    "unlocked": sg.Unlocked,
    "sporadic": sg.Sporadic,
    "fully": sg.FullyUnlocked,
    "own": everybody,
}
each = pytest.mark.parametrize("kind", SCHEDULES)
BAD = pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])


def _layer(activation):
    return nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), activation())


def _model(feedback="mlp", activation=nn.ReLU, **more) -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(_layer(activation), _layer(activation), nn.Linear(8, 3))
    context = {} if callable(feedback) else {"context": 3}
    return sg.decouple(
        model,
        ["0", "1"],
        feedback,
        example_inputs=torch.randn(4, 8),
        inputs=lambda x, h: sg.inputs.SyntheticInput(8, 8, (6,)),
        **context,
        **more,
    )


def _batch():
    return torch.randn(16, 8), torch.randint(3, (16,))


def _trained(kind, steps=5, **how):
    model = _model(**how)
    schedule = SCHEDULES[kind](model, ADAM)
    for _ in range(steps):
        x, y = _batch()
        schedule.step(x, lambda out, y=y: F.cross_entropy(out, y), context=y)
    return model, schedule


def _state(model, schedule):
    state = copy.deepcopy({**model.state_dict()})
    optimizers = copy.deepcopy(
        {name: o.state_dict()["state"] for name, o in schedule.optimizers.items()}
    )
    return state, optimizers


@each
@BAD
@pytest.mark.parametrize("steps", [0, 5])
def test_what_is_not_finite_in_the_input_changes_nothing_at_all(kind, bad, steps):
    model, schedule = _trained(kind, steps)
    before = _state(model, schedule)
    x, y = _batch()
    x[3, 2] = bad
    with pytest.raises(NonFiniteError, match=r"'0'|'1'|'output'|loss") as raised:
        schedule.step(x, lambda out: F.cross_entropy(out, y), context=y)
    assert "Nothing was changed" in str(raised.value)
    state, optimizers = _state(model, schedule)
    assert_close(state, before[0], rtol=0, atol=0)
    if steps:
        assert_close(optimizers, before[1], rtol=0, atol=0)
    x, y = _batch()
    assert math.isfinite(schedule.step(x, lambda out: F.cross_entropy(out, y), context=y))


@pytest.mark.parametrize("feedback", [lambda h: Stale(0.5), lambda h: Linear(8)])
@pytest.mark.parametrize("kind", ["unlocked", "sporadic"])
def test_an_activation_that_hides_it_does_not_hide_it(kind, feedback):
    """tanh(inf) is 1: message and synthetic error are finite, the weights' gradients are not."""
    torch.manual_seed(0)
    model: Any = nn.Sequential(nn.Sequential(nn.Linear(8, 8), nn.Tanh()), nn.Linear(8, 3))
    nn.init.ones_(model[0][0].weight)
    sg.decouple(model, "0", feedback, example_inputs=torch.randn(4, 8))
    schedule = SCHEDULES[kind](model, ADAM)
    x, y = _batch()
    for _ in range(3):
        schedule.step(x, lambda out: F.cross_entropy(out, y))
    before = copy.deepcopy(model.state_dict())
    x[0, 0] = math.inf
    with pytest.raises(NonFiniteError):
        schedule.step(x, lambda out: F.cross_entropy(out, y))
    assert_close(model.state_dict(), before, rtol=0, atol=0)


@BAD
def test_a_loss_that_is_not_finite_leaves_what_was_learned_before_and_says_so(bad):
    model, schedule = _trained("unlocked")
    before = copy.deepcopy(model.state_dict())
    x, y = _batch()
    with pytest.raises(NonFiniteError, match=rf"loss is {bad}.*\['0', '1'\]"):
        schedule.step(x, lambda out: F.cross_entropy(out, y) * bad, context=y)
    after = model.state_dict()
    assert all(t.isfinite().all() for t in after.values())
    assert not torch.equal(after["0.0.weight"], before["0.0.weight"])
    assert torch.equal(after["2.weight"], before["2.weight"])


def test_sporadic_looks_at_the_loss_before_anybody_goes():
    model, schedule = _trained("sporadic")
    before = copy.deepcopy(model.state_dict())
    x, y = _batch()
    with pytest.raises(NonFiniteError, match="Nothing was changed"):
        schedule.step(x, lambda out: F.cross_entropy(out, y) * math.nan, context=y)
    assert_close(model.state_dict(), before, rtol=0, atol=0)


@each
def test_a_gradient_that_alone_is_not_finite_updates_nothing_with_it(kind):
    model, schedule = _trained(kind)
    x, y = _batch()
    with pytest.raises(NonFiniteError, match=r"'1'|'output'"):
        schedule.step(x, lambda out: (out - out.detach()).abs().sqrt().sum(), context=y)
    for tensors in _state(model, schedule):
        flat = tree_leaves(tensors)
        assert all(t.isfinite().all() for t in flat if isinstance(t, torch.Tensor))
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("kind", ["unlocked", "sporadic", "own"])
def test_it_can_be_turned_off(kind):
    model, schedule = _trained(kind, check_finite=False)
    x, y = _batch()
    x[0, 0] = math.nan
    schedule.step(x, lambda out: F.cross_entropy(out, y), context=y)
    assert not model[0][0].weight.isfinite().all()


@each
def test_an_exception_of_the_users_puts_statistics_back_where_nothing_was_updated(kind):
    model, schedule = _trained(kind)
    if kind != "sporadic":
        schedule = sg.Sporadic(model, ADAM)
    before = copy.deepcopy(model.state_dict())
    x, y = _batch()

    def fails(out):
        raise InterruptedError

    for _ in range(2):
        with pytest.raises(InterruptedError):
            schedule.step(x, fails, context=y)
    assert_close(model.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["unlocked", "sporadic", "own"])
@pytest.mark.parametrize("when", ["first", "later"])
def test_a_loss_that_reaches_below_a_cut_is_found_at_every_step(kind, when):
    model = _model()
    schedule = SCHEDULES[kind](model, ADAM)
    x, y = _batch()
    if when == "later":
        schedule.step(x, lambda out: F.cross_entropy(out, y), context=y)
    weight = model[0][0].weight
    with pytest.raises(LockingError, match=r"0\.0\.weight"):
        schedule.step(x, lambda out: F.cross_entropy(out, y) + weight.square().sum(), context=y)


class _Skips(nn.Module):
    """Takes a path around its cut where ``skips`` says so."""

    first: Any

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
        self.second = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
        self.last = nn.Linear(8, 3)
        self.skips = False

    def forward(self, x):
        first = self.first[:2](x)
        h = self.second(self.first.interface(first))
        return self.last(h + first if self.skips else h)


@pytest.mark.parametrize("kind", ["unlocked", "sporadic", "own"])
def test_a_skip_that_comes_later_is_found(kind):
    model = _Skips()
    sg.decouple(model, ["first", "second"], "linear", context=3)
    schedule = SCHEDULES[kind](model, ADAM)
    x, y = _batch()
    schedule.step(x, lambda out: F.cross_entropy(out, y), context=y)
    model.skips = True
    with pytest.raises(LockingError, match=r"goes around|got a gradient"):
        schedule.step(x, lambda out: F.cross_entropy(out, y), context=y)


@each
def test_a_layer_exchanged_after_its_optimiser_was_made_is_named(kind):
    model, schedule = _trained(kind)
    before = copy.deepcopy(model.state_dict())
    model[1][0] = nn.Linear(8, 8)
    exchanged = copy.deepcopy(model.state_dict())
    x, y = _batch()
    with pytest.raises(LockingError, match=r"'1\.0\.weight'.*make a new schedule"):
        schedule.step(x, lambda out: F.cross_entropy(out, y), context=y)
    assert_close(model.state_dict(), exchanged, rtol=0, atol=0)
    assert before.keys() == exchanged.keys()


@each
def test_modules_without_parameters_may_be_exchanged(kind):
    model, schedule = _trained(kind)
    model[1][1] = nn.Identity()
    x, y = _batch()
    schedule.step(x, lambda out: F.cross_entropy(out, y), context=y)


@each
def test_an_interface_in_eval_mode_inside_a_model_that_trains_is_named(kind):
    model, schedule = _trained(kind)
    model[1].eval()
    x, y = _batch()
    with pytest.raises(LockingError, match=r"interface '1'.*eval mode"):
        schedule.step(x, lambda out: F.cross_entropy(out, y), context=y)


@each
def test_an_optimiser_that_leaves_parameters_out_is_refused(kind):
    def matrices(parameters):
        return ADAM([p for p in parameters if p.ndim > 1])

    x, y = _batch()
    with pytest.raises(sg.errors.ArgumentError, match=r"leaves out .* of its .* parameters"):
        SCHEDULES[kind](_model(), matrices).step(x, lambda o: F.cross_entropy(o, y), context=y)


@each
def test_weights_that_share_memory_over_a_cut_are_refused(kind):
    model = _model()
    model[1][0].weight.data = model[0][0].weight.data
    x, y = _batch()
    with pytest.raises(LockingError, match=r"'0\.0\.weight'.*'1\.0\.weight'"):
        SCHEDULES[kind](model, ADAM).step(x, lambda o: F.cross_entropy(o, y), context=y)
