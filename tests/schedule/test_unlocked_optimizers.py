import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam
from torch.testing import assert_close

import synthgrad as sg
from synthgrad.errors import ArgumentError
from synthgrad.feedback import Linear
from tests.networks import awake, chain, hidden, squares


def _batch():
    return torch.randn(6, 3).double(), torch.randn(6, 2).double()


def _model(cuts=2):
    model = chain([3, *[4] * cuts, 2])
    awake(sg.decouple(model, hidden(model), "linear"))
    return model


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
