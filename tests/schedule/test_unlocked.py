import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam
from torch.testing import assert_close

import synthgrad as sg
from synthgrad.errors import ArgumentError
from synthgrad.feedback import MLP, Linear, Stale
from tests.networks import awake, backward, chain, hidden, interfaces, squares


def _batch():
    return torch.randn(6, 3).double(), torch.randn(6, 2).double()


def _model(cuts=2, **options):
    model = chain([3, *[4] * cuts, 2])
    awake(sg.decouple(model, hidden(model), "linear", **options))
    return model


def test_each_segment_is_updated_before_the_next_one_runs():
    model, (x, y) = _model(3), _batch()
    before = copy.deepcopy(dict(model.named_parameters()))
    seen = []

    def look(layer, _):
        changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
        seen.append({name.replace("interface.feedback", "M").rsplit(".", 2)[0] for name in changed})

    schedule = sg.Unlocked(model, partial(SGD, lr=0.1))
    schedule.prepare(x, squares(y))
    for layer in model:
        layer.register_forward_pre_hook(look)
    schedule.step(x, squares(y))
    # A model is fitted when the segment above it has run (fig. 9).
    assert seen == [set(), {"0"}, {"0", "1", "0.M"}, {"0", "1", "2", "0.M", "1.M"}]
    look(None, None)
    assert {"2.M", "0", "1", "2"} < seen[-1]


def test_there_is_an_optimizer_for_each_segment_and_the_models_at_its_inputs():
    model, (x, y) = _model(2), _batch()
    schedule = sg.Unlocked(model, partial(SGD, lr=0.1))
    assert schedule.optimizers == {}
    schedule.prepare(x, squares(y))
    names = {p: name for name, p in model.named_parameters()}
    owned = {
        name: {
            names[p].replace("interface.feedback.first", "M") for p in o.param_groups[0]["params"]
        }
        for name, o in schedule.optimizers.items()
    }
    assert owned == {
        "0": {"0.0.weight", "0.0.bias"},
        "1": {"1.0.weight", "1.0.bias", "0.M.weight", "0.M.bias"},
        "output": {"2.weight", "2.bias", "1.M.weight", "1.M.bias"},
    }


def test_feedback_models_may_have_optimizers_of_their_own():
    model, (x, y) = _model(2), _batch()
    before = copy.deepcopy(model.state_dict())
    schedule = sg.Unlocked(model, partial(SGD, lr=0.0), feedback_optimizer=partial(Adam, lr=0.1))
    schedule.step(x, squares(y))
    assert {name: type(o) for name, o in schedule.optimizers.items()} == {
        "0": SGD,
        "1": SGD,
        "1 feedback": Adam,
        "output": SGD,
        "output feedback": Adam,
    }
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == ("feedback" not in name)


def test_looking_for_segments_leaves_no_trace():
    layers = [nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2)]
    model, (x, y) = nn.Sequential(*layers).double(), _batch()
    sg.decouple(model, "1", lambda h: MLP(4, (5,)), example_inputs=x)
    sg.decouple(model, "2", lambda h: Stale(0.5), example_inputs=x)
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    sg.Unlocked(model, SGD).prepare(x, squares(y))
    assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters())


def test_the_first_step_is_a_step_like_any_other():
    x, y = _batch()
    prepared = _model()
    straight = copy.deepcopy(prepared)
    schedule = sg.Unlocked(prepared, partial(SGD, lr=0.1))
    schedule.prepare(x, squares(y))
    assert_close(
        schedule.step(x, squares(y)),
        sg.Unlocked(straight, partial(SGD, lr=0.1)).step(x, squares(y)),
    )
    assert_close(prepared.state_dict(), straight.state_dict(), rtol=0, atol=0)
    assert [interface.step for interface in interfaces(prepared)] == [1, 1]


@pytest.mark.parametrize("when", ["before the first step", "after it", "twice over"])
def test_training_goes_on_from_a_checkpoint(when):
    make = partial(Adam, lr=0.01)
    batches = [_batch() for _ in range(6)]
    model = _model()
    schedule = sg.Unlocked(model, make, feedback_optimizer=make)
    for x, y in batches[:3]:
        schedule.step(x, squares(y))
    weights, state = copy.deepcopy((model.state_dict(), schedule.state_dict()))
    for x, y in batches[3:]:
        schedule.step(x, squares(y))

    other = _model()
    resumed = sg.Unlocked(other, make, feedback_optimizer=make)
    if when == "after it":
        resumed.step(batches[0][0], squares(batches[0][1]))
    resumed.load_state_dict(state)
    if when == "twice over":  # a checkpoint of what was only just restored
        state = resumed.state_dict()
        resumed = sg.Unlocked(other, make, feedback_optimizer=make)
        resumed.load_state_dict(state)
    other.load_state_dict(weights)
    for x, y in batches[3:]:
        resumed.step(x, squares(y))
    assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_a_state_of_a_model_that_is_cut_elsewhere_is_refused_for_good():
    x, y = _batch()
    schedule = sg.Unlocked(_model(2), SGD)
    schedule.step(x, squares(y))
    other = _model(1)
    before = copy.deepcopy(other.state_dict())
    resumed = sg.Unlocked(other, SGD)
    resumed.load_state_dict(schedule.state_dict())
    for _ in range(2):
        with pytest.raises(ArgumentError, match=r"\['0', '1', 'output'\].*\['0', 'output'\]"):
            resumed.step(x, squares(y))
    assert_close(other.state_dict(), before, rtol=0, atol=0)


def test_interfaces_that_share_a_name_keep_their_optimizers_apart():
    parts = [sg.decouple(nn.Sequential(nn.Linear(3, 3)), "0", "linear") for _ in range(2)]
    model = nn.Sequential(*parts, sg.Interface(Linear(3), name="output"), nn.Linear(3, 2)).double()
    x, y = _batch()
    schedule = sg.Unlocked(model, SGD)
    schedule.step(x, squares(y))
    assert list(schedule.optimizers) == ["0.0.interface", "1.0.interface", "2", "output"]
    owned = [p for o in schedule.optimizers.values() for p in o.param_groups[0]["params"]]
    assert {id(p) for p in owned} == {id(p) for p in model.parameters()}
    assert len(owned) == len(list(model.parameters()))


def test_a_parameter_that_one_pass_does_not_use_belongs_to_the_last_segment():
    class Spare(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.spare = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x):
            return self.used(x)

    top, (x, y) = Spare(), _batch()
    model = nn.Sequential(nn.Linear(3, 3), sg.Interface(Linear(3)), top).double()
    schedule = sg.Unlocked(model, SGD)
    schedule.step(x, squares(y))
    owned = schedule.optimizers["output"].param_groups[0]["params"]
    assert any(p is top.spare.weight for p in owned)


def test_it_returns_the_loss_detached_also_where_gradients_are_off():
    model, (x, y) = _model(), _batch()
    expected = backward(copy.deepcopy(model), x, squares(y))
    with torch.no_grad():
        loss = sg.Unlocked(model, partial(SGD, lr=0.1)).step(x, squares(y))
    assert not loss.requires_grad
    assert_close(loss, expected)


@pytest.mark.parametrize("kind", ["sender", "feedback", "all but the last layer"])
def test_frozen_parts_stay_and_the_others_learn(kind):
    model, (x, y) = _model(), _batch()
    for name, parameter in model.named_parameters():
        is_feedback = "feedback" in name
        frozen = {
            "sender": name.startswith("0.0"),
            "feedback": is_feedback,
            "all but the last layer": not name.startswith("2"),
        }[kind]
        parameter.requires_grad_(not frozen)
    before = copy.deepcopy(model.state_dict())
    sg.Unlocked(model, partial(SGD, lr=0.1)).step(x, squares(y))
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) != parameter.requires_grad
