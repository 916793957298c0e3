"""An interface behind a stage keeps its name, its reduction, its batch_dim and its checks."""

from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import synthgrad as sg
from synthgrad.distributed import Options, Stage, train
from synthgrad.distributed._learner import Learner
from synthgrad.errors import ArgumentError, LockingError, NonFiniteError, ShapeError
from tests.distributed.memory import Memory
from tests.distributed.processes import batches
from tests.distributed.threads import Pipeline, build

pytestmark = pytest.mark.timeout(60)
SGD = partial(torch.optim.SGD, lr=0.1)


def _interface(lambda_: Any = 0.0, features=6, **settings: Any) -> Any:
    torch.manual_seed(1)
    model: Any = sg.feedback.MLP(features, hidden=(5,), context=settings.pop("context", 0))
    nn.init.normal_(model.rest[-1].weight, std=0.1)
    given: dict[str, Any] = {"name": "hidden"} | settings
    return sg.Interface(model, lambda_, **given)


def _learner(interface, segment=None, **settings) -> Any:
    torch.manual_seed(0)
    segment = segment or nn.Linear(4, 6)
    return Learner(segment, SGD, feedback=interface, loss_fn=None, label="stage 7", **settings)


def _y():
    return torch.arange(8) % 3


def _train(learner, h) -> Any:
    with learner.step():
        return learner.backward(learner.forward(h, _y()), _y())[1]


@pytest.mark.parametrize("lambda_", [0.5, 1.0, lambda step: 0.25], ids=["half", "one", "function"])
def test_an_interface_that_mixes_is_refused_by_its_name(lambda_):
    interface = _interface(lambda_)
    with pytest.raises(LockingError, match=r"interface 'hidden': lambda_ is (0\.5|1\.0|0\.25) at"):
        _learner(interface)
    with pytest.raises(LockingError, match="interface 'hidden': lambda_ is"):
        Stage(
            nn.Linear(4, 6),
            index=0,
            stages=2,
            store=Memory(),
            optimizer=SGD,
            feedback=interface,
            batches=batches,
        )
    segments = [nn.Linear(8, 6), nn.Linear(6, 4)]
    settings = {"batches": batches, "loss_fn": F.cross_entropy, "optimizer": SGD, "steps": 1}
    with pytest.raises(LockingError, match="interface 'hidden': lambda_ is"):
        train(segments, [interface], **settings)


def test_one_that_begins_to_mix_later_is_refused_then():
    learner = _learner(_interface(lambda step: float(step > 0)))
    message = _train(learner, torch.randn(8, 4))
    learner.fit(message, torch.randn(8, 6))
    with pytest.raises(LockingError, match=r"stage 7: interface 'hidden': lambda_ is 1\.0"):
        _train(learner, torch.randn(8, 4))


def test_a_critic_is_refused_by_the_name_of_its_interface():
    critic = sg.Interface(sg.feedback.Critic(nn.Linear(6, 1)), name="hidden")
    with pytest.raises(ArgumentError, match="interface 'hidden': Critic is fitted to values"):
        _learner(critic)


def test_an_interface_does_not_stand_behind_its_segment_and_in_it():
    model = nn.Sequential(nn.Linear(4, 6))
    interface = _interface()
    model.append(interface)
    with pytest.raises(ArgumentError, match="interface 'hidden': it is part of the segment"):
        _learner(interface, model)


def test_errors_say_the_stage_and_the_interface_by_its_own_name():
    learner = _learner(_interface())
    model = learner.interface.feedback
    kept = model.register_forward_hook(lambda module, given, out: float("nan") * out)
    with pytest.raises(NonFiniteError, match=r"^stage 7: interface 'hidden': the synthetic error"):
        _train(learner, torch.randn(8, 4))
    kept.remove()
    torch.manual_seed(0)
    wide = _learner(_interface(features=5))
    with pytest.raises(ShapeError, match=r"^stage 7: interface 'hidden': "):
        _train(wide, torch.randn(8, 4))


def test_an_interface_that_does_not_check_lets_a_stage_pass():
    unchecked = _learner(_interface(check_finite=False), check_finite=False)
    message = _train(unchecked, torch.full((8, 4), float("nan")))
    assert message.isnan().all()


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        ({}, (8, 4)),
        ({"reduction": "sum"}, (8, 4)),
        ({"batch_dim": 1}, (5, 8, 4)),
        ({"batch_dim": 1, "reduction": "sum"}, (5, 8, 4)),
    ],
    ids=str,
)
def test_a_stage_gives_the_gradients_of_its_interface(settings, shape):
    interface = _interface(**settings)
    learner = _learner(deepcopy(interface))
    alone = nn.ModuleList([deepcopy(learner.segment), interface])
    h, delta = torch.randn(shape), torch.randn(*shape[:-1], 6)
    message, _ = interface.send(alone[0](h), _y())
    message.backward(delta)
    SGD(alone.parameters()).step()
    learner.fit(_train(learner, h), delta)
    found = nn.ModuleList([learner.segment, learner.interface]).state_dict()
    for name, wanted in alone.state_dict().items():
        assert torch.equal(found[name], wanted), name


def test_a_summed_loss_is_trained_by_stages_as_in_one_process():
    def loss_fn(output, y):
        return F.cross_entropy(output, y, reduction="sum")

    torch.manual_seed(0)
    segments = [nn.Sequential(nn.Linear(8, 6), nn.Tanh()), nn.Linear(6, 4)]
    interface = _interface(reduction="sum", context=4)
    expected = nn.Sequential(*deepcopy([segments[0], interface, segments[1]]))
    optimizer = partial(torch.optim.Adam, lr=1e-2)
    schedule = sg.Unlocked(expected, optimizer)
    for step in range(15):
        x, y = batches(step)
        schedule.step(x, lambda output, y=y: loss_fn(output, y), y)
    memory = Memory()
    stages = build(
        segments,
        [interface],
        options=Options(window=1, synchronous=True),
        batches=batches,
        loss_fn=loss_fn,
        optimizer=optimizer,
        transport=lambda: memory,
    )
    Pipeline(stages, 15).join()
    ours = nn.Sequential(segments[0], interface, segments[1]).state_dict()
    for name, value in expected.state_dict().items():
        assert torch.equal(ours[name], value), name


def test_train_takes_interfaces_and_leaves_them_trained():
    segments = [nn.Linear(8, 6), nn.Linear(6, 4)]
    interface = _interface()
    before = deepcopy(interface.feedback.state_dict())
    settings = {"batches": batches, "loss_fn": F.cross_entropy, "optimizer": SGD, "steps": 6}
    train(segments, [interface], options=Options(window=1, synchronous=True), **settings)
    assert interface.step == 6
    after = interface.feedback.state_dict()
    assert not all(torch.equal(after[name], value) for name, value in before.items())
