import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.testing import assert_close

import synthgrad as sg
from synthgrad.feedback import MLP, Stale
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


def test_it_returns_the_loss_detached_also_where_gradients_are_off():
    model, (x, y) = _model(), _batch()
    expected = backward(copy.deepcopy(model), x, squares(y))
    with torch.no_grad():
        loss = sg.Unlocked(model, partial(SGD, lr=0.1)).step(x, squares(y))
    assert not loss.requires_grad
    assert_close(loss, expected)


@pytest.mark.filterwarnings("ignore:.*feedback model is frozen")
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
