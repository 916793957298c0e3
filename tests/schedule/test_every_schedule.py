"""What holds for each schedule: its state, its optimisers, and where its context comes from."""

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam
from torch.testing import assert_close

import synthgrad as sg
from synthgrad.errors import ArgumentError, LockingError, ShapeError, SynthgradWarning
from synthgrad.feedback import Linear
from synthgrad.inputs import SyntheticInput
from tests.networks import awake, chain, gradients, squares
from tests.schedule.own import everybody

adam = partial(Adam, lr=0.01)
# Those which find their segments in the first step, one of a user's own among them.
BY_A_PASS = {"Unlocked": sg.Unlocked, "Sporadic": sg.Sporadic, "own": everybody}
EVERY = {**BY_A_PASS, "FullyUnlocked": sg.FullyUnlocked}
by_a_pass = pytest.mark.parametrize("schedule", BY_A_PASS.values(), ids=BY_A_PASS)
every = pytest.mark.parametrize("schedule", EVERY.values(), ids=EVERY)


def _input(x: Tensor, h: Tensor) -> SyntheticInput:
    return SyntheticInput(x.shape[1], h.shape[1], (6,))


def _model(*widths: int, context: int = 0) -> Any:
    model = chain([4, *widths, 3])
    at = [str(place) for place in range(len(widths))]
    x = torch.randn(6, 4).double()
    sg.decouple(model, at, "linear", context=context, example_inputs=x, inputs=_input)
    return awake(model.double())


def _batch():
    return torch.randn(6, 4).double(), squares(torch.randn(6, 3).double())


def _steps(schedule) -> set[int]:
    states = [s for o in schedule.optimizers.values() for s in o.state.values()]
    return {int(state["step"]) for state in states}


@every
def test_a_state_from_before_the_first_step_begins_anew(schedule):
    empty = copy.deepcopy(schedule(_model(5, 5), adam).state_dict())
    fresh, used = schedule(_model(5, 5), adam), schedule(_model(5, 5), adam)
    used.step(*_batch())
    for other in (fresh, used):
        other.load_state_dict(copy.deepcopy(empty))
        other.step(*_batch())
        assert _steps(other) == {1}


@every
def test_a_forgotten_cut_is_told(schedule):
    with pytest.warns(SynthgradWarning, match="Sequential has no interface, so this schedule is"):
        schedule(chain([4, 3]).double(), adam).step(*_batch())


@by_a_pass
def test_a_good_state_may_follow_a_refused_one(schedule):
    model, alien = _model(5, 5), schedule(_model(5), adam)
    alien.step(*_batch())
    known = schedule(model, adam)
    for _ in range(3):
        known.step(*_batch())
    again = schedule(copy.deepcopy(model), adam)
    again.load_state_dict(copy.deepcopy(alien.state_dict()))
    for _ in range(2):  # it is not forgotten either
        with pytest.raises(ArgumentError, match="the state has optimisers"):
            again.step(*_batch())
    again.load_state_dict(copy.deepcopy(known.state_dict()))
    again.step(*_batch())
    assert _steps(again) == {4}


@by_a_pass
def test_preparing_twice_changes_nothing(schedule):
    model = _model(5, 5)
    made = schedule(model, adam)
    made.prepare(*_batch())
    before = dict(made.optimizers)
    made.step(*_batch())
    made.prepare(*_batch())
    assert dict(made.optimizers) == before
    made.step(*_batch())
    assert _steps(made) == {2}


@every
def test_the_context_around_a_step_is_that_of_the_step(schedule):
    x, loss_fn = _batch()
    y = torch.randint(3, (6,))
    model = _model(5, 5, context=3)
    inside, given = (schedule(copy.deepcopy(model), adam) for _ in range(2))
    for _ in range(2):
        torch.manual_seed(1)
        with sg.context(y):
            inside.step(x, loss_fn)
        torch.manual_seed(1)
        given.step(x, loss_fn, y)
    for a, b in zip(inside.model.parameters(), given.model.parameters(), strict=True):
        assert torch.equal(a, b)


@every
@pytest.mark.filterwarnings("ignore:.*feedback model is frozen")
def test_what_was_frozen_at_first_learns_when_it_no_longer_is(schedule):
    model = _model(5, 5)
    first, feedback = model[0][0], model[0].interface.feedback
    for module in (first, feedback):
        module.requires_grad_(False)
    made = schedule(model, adam)
    before = copy.deepcopy(model.state_dict())
    made.step(*_batch())
    assert torch.equal(first.weight, before["0.0.weight"])
    for module in (first, feedback):
        module.requires_grad_(True)
    made.step(*_batch())
    for module, path in ((first, "0.0"), (feedback, "0.interface.feedback")):
        for name, value in module.named_parameters():
            assert not torch.equal(value, before[f"{path}.{name}"]), name


class _Detour(nn.Module):
    """A branch that only some passes take, before the cut."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.branch = nn.Linear(4, 4), nn.Linear(4, 4)
        self.cut = sg.Interface(Linear(4), name="cut")
        self.last = nn.Linear(4, 3)
        self.detour = False

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        h = self.branch(h) if self.detour else h
        return self.last(self.cut(h.tanh()))


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_a_branch_that_the_first_pass_did_not_take_goes_with_its_own_segment(p):
    torch.manual_seed(0)
    model: Any = awake(_Detour().double())
    schedule = sg.Sporadic(model, partial(SGD, lr=0.1), {"cut": p, "output": 0.5})
    schedule.step(*_batch())
    model.detour = True
    for _ in range(40):
        before = [model.first.weight.clone(), model.branch.weight.clone()]
        schedule.step(*_batch())
        after = [model.first.weight, model.branch.weight]
        moved = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
        assert moved[0] == moved[1]


@by_a_pass
def test_an_interface_that_no_longer_runs_is_named_before_anything_moves(schedule):
    class Skipping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = chain([4, 4, 4, 3])
            self.skips = False

        def forward(self, x: Tensor) -> Tensor:
            first, second, last = self.parts
            h = first(x)
            return last(h if self.skips else second(h))

    model = Skipping()
    sg.decouple(model, ["parts.1"], "linear")
    made = schedule(model, adam)
    made.step(*_batch())
    model.skips = True
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(LockingError, match=r"interface 'parts\.1'"):
        made.step(*_batch())
    for name, value in model.state_dict().items():
        assert "extra_state" in name or torch.equal(value, before[name]), name


@pytest.mark.parametrize("p", ["0.5", None, {"0": None}, [0.5], True], ids=repr)
@pytest.mark.parametrize("schedule", [sg.Sporadic, sg.FullyUnlocked], ids=lambda s: s.__name__)
def test_a_probability_is_a_number(as_installed, schedule, p):
    with pytest.raises(ArgumentError, match=r"p_update must lie in \[0, 1\], got"):
        schedule(_model(5), adam, p)


@pytest.mark.parametrize("schedule", [sg.Sporadic, sg.FullyUnlocked], ids=lambda s: s.__name__)
def test_a_state_of_another_kind_is_named(schedule):
    made, other = schedule(_model(5, 5), adam), schedule(_model(5), adam)
    with pytest.raises(ArgumentError, match=r"expected a state with 'optimizers' and 'updates'"):
        made.load_state_dict({})
    made.step(*_batch())
    other.step(*_batch())
    state = other.state_dict() | {"optimizers": made.state_dict()["optimizers"]}
    with pytest.raises(ArgumentError, match=r"counts updates of \['0', 'output'\], this model has"):
        made.load_state_dict(state)
    assert made.updates.keys() == {"0", "1", "output"}


def test_where_nothing_is_left_to_chance_dropout_is_that_of_unlocked():
    def trained(make) -> list[Tensor]:
        torch.manual_seed(3)
        model: Any = chain([4, 5, 5, 3])
        model[0].append(nn.Dropout(0.5))
        sg.decouple(model, ["0", "1"], "linear")
        schedule = make(awake(model))
        for _ in range(3):
            schedule.step(*_batch())
        return list(model.parameters())

    unlocked = trained(lambda model: sg.Unlocked(model, adam))
    sporadic = trained(lambda model: sg.Sporadic(model, adam, order="forward"))
    assert all(torch.equal(a, b) for a, b in zip(unlocked, sporadic, strict=True))


def test_a_sequence_with_hooks_is_not_taken_apart():
    model = nn.Sequential(_model(5, 5))
    model[0].register_forward_hook(lambda *_: None)
    with pytest.raises(LockingError, match="sequence of 3 modules has forward hooks"):
        sg.FullyUnlocked(model, adam)


class _TwoInputs(nn.Module):
    """Adds up what two layers make of two inputs; the second one may be left out."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 5), nn.Linear(3, 5)
        self.hidden, self.last = nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, a: Tensor, b: Tensor | None = None) -> Tensor:
        h = self.left(a) if b is None else self.left(a) + self.right(b)
        return self.last(self.hidden(h.tanh()).tanh())


def _two_inputs(a: Tensor) -> Any:
    return awake(sg.decouple(_TwoInputs().double(), "hidden", "linear", example_inputs=a))


@by_a_pass
def test_the_input_may_be_a_tuple_or_a_mapping(schedule):
    a, b = torch.randn(6, 4).double(), torch.randn(6, 3).double()
    loss_fn = squares(torch.randn(6, 3).double())
    model = _two_inputs(a)
    forms = [(a, b), {"a": a, "b": b}, {"b": b, "a": a}]
    trained = []
    for x in forms:
        made = schedule(copy.deepcopy(model), partial(SGD, lr=0.1))
        losses = [made.step(x, loss_fn) for _ in range(2)]
        trained.append((losses, gradients(made.model)))
    assert "right.weight" in trained[0][1]
    for other in trained[1:]:
        assert_close(other, trained[0], rtol=0, atol=0)
    alone = [schedule(copy.deepcopy(model), adam).step(x, loss_fn) for x in (a, (a,), {"a": a})]
    assert_close(alone[1:], alone[:1] * 2, rtol=0, atol=0)


@by_a_pass
def test_a_named_tuple_is_one_argument(schedule):
    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.core, self.hidden, self.last = nn.GRU(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)

        def forward(self, x: nn.utils.rnn.PackedSequence) -> Tensor:
            return self.last(self.hidden(self.core(x)[1][0]).tanh())

    x = nn.utils.rnn.pack_sequence([torch.randn(n, 4) for n in (3, 2, 2)])
    model = awake(sg.decouple(Padded(), "hidden", "linear"))
    assert schedule(model, adam).step(x, squares(torch.zeros(3, 3))).isfinite()


@by_a_pass
def test_a_name_in_the_input_is_a_string(schedule):
    a = torch.randn(6, 4).double()
    with pytest.raises(ArgumentError, match=r"a name in x must be a string, got 3"):
        schedule(_two_inputs(a), adam).step({3: a}, torch.sum)


@by_a_pass
@pytest.mark.parametrize(
    "x", [(), {}, {"c": torch.ones(6, 4)}, (1, 2, 3)], ids=["()", "{}", "name", "3"]
)
def test_an_input_that_the_model_does_not_take_is_refused(schedule, x):
    model = _two_inputs(torch.randn(6, 4).double())
    with pytest.raises(ArgumentError, match=r"x does not fit _TwoInputs\.forward: "):
        schedule(model, adam).step(x, torch.sum)


@pytest.mark.parametrize(
    "x", [(torch.randn(6, 4),), {"x": torch.randn(6, 4)}], ids=["tuple", "dict"]
)
def test_synthetic_inputs_are_made_from_one_tensor(as_installed, x):
    with pytest.raises(ShapeError, match=f"one tensor, got {type(x).__name__}"):
        sg.FullyUnlocked(_model(5), adam).step(x, squares(torch.zeros(6, 3)))


@pytest.mark.parametrize(("at", "name"), [(0, "0"), (1, "1"), (2, "output")])
def test_segments_go_back_once_and_only_if_they_were_to(at, name):
    class Again(sg.Schedule):
        def run(self, step: sg.schedule.Step) -> None:
            step.forward(self.segments[1:])
            for _ in range(2):
                step.backward(self.segments[at])

    with pytest.raises(LockingError, match=f"ending at '{name}' cannot go back: it has"):
        Again(_model(5, 5), adam).step(*_batch())
