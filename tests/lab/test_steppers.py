import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.utils import convert_conv2d_weight_memory_format

from synthgrad.lab.data import DataSet
from synthgrad.lab.experiments import images as trainer_module
from synthgrad.lab.experiments.feed_forward import Inline, Scheduled
from synthgrad.lab.experiments.image_recipes import RECIPES
from synthgrad.lab.experiments.images import ImageTrainer
from synthgrad.lab.experiments.rates import Rate, adam

CPU = torch.device("cpu")


def _cnn(**settings) -> ImageTrainer:
    x = torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    data = DataSet("any", x, torch.arange(40) % 10, x, torch.arange(40) % 10, classes=10)
    recipe = RECIPES["cifar10-cnn"]
    short = {"units": 4, "feedback_hidden": (3,), "batch_size": 10, "iterations": 10}
    return recipe.build(recipe.settle(recipe.defaults.changed(**(short | settings))), data, CPU)


def _fully_unlocked(name: str, **settings) -> ImageTrainer:
    x, y = torch.rand(40, 1, 3, 3), torch.arange(40) % 10
    data = DataSet("any", x, y, x, y, classes=10)
    recipe = RECIPES[name]
    shared = {"method": "cdni", "unlock": "full", "units": 4, "batch_size": 10}
    return recipe.build(recipe.settle(recipe.defaults.changed(**(shared | settings))), data, CPU)


def _rates(trainer: ImageTrainer) -> set[float]:
    stepper = trainer.stepper
    if isinstance(stepper, Inline):
        optimizers = [stepper.optimizer]
    else:
        optimizers = list(stepper.schedule.optimizers.values())
    return {float(group["lr"]) for optimizer in optimizers for group in optimizer.param_groups}


@pytest.mark.parametrize("unlock", ["no", "update"])
@pytest.mark.parametrize("other", [0.25, 0.5])
def test_the_rates_fall_in_every_optimiser_also_after_loading(unlock, other):
    settings = {"unlock": unlock, "learning_rate": 0.25, "feedback_learning_rate": other}
    trainer = _cnn(method="cdni", **settings)
    for step in range(10):
        if step in (3, 7):
            state = copy.deepcopy(trainer.state_dict())
            trainer = _cnn(method="cdni", **settings)
            trainer.load_state_dict(state)
        trainer.advance()
        factor = 1 if step < 6 else 0.1 if step < 8 else 0.1**2
        assert _rates(trainer) == {0.25 * factor, other * factor}


def test_a_tensor_rate_is_the_number_to_the_last_bit():
    def trained(make) -> torch.Tensor:
        torch.manual_seed(0)
        layer = nn.Linear(5, 5)
        optimizer = make(layer.parameters())
        for _ in range(5):
            optimizer.zero_grad()
            layer(torch.ones(2, 5)).square().sum().backward()
            optimizer.step()
        return layer.weight.detach()

    rate = Rate(3e-4, CPU)
    rate.set(0.1)
    number = trained(lambda parameters: torch.optim.Adam(parameters, lr=3e-4 * 0.1, fused=True))
    assert torch.equal(trained(lambda parameters: adam(parameters, rate)), number)


def test_a_state_from_elsewhere_takes_the_form_that_suits_here():
    def trained(layer: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for _ in range(3):
            optimizer.zero_grad()
            layer(image).square().sum().backward()
            optimizer.step()

    image, plain = torch.rand(2, 3, 5, 5), nn.Conv2d(3, 4, 3)
    elsewhere = convert_conv2d_weight_memory_format(copy.deepcopy(plain), torch.channels_last)
    there = torch.optim.Adam(elsewhere.parameters(), lr=0.1, fused=True, capturable=True)
    trained(elsewhere, there)
    plain.load_state_dict(elsewhere.state_dict())
    here = adam(plain.parameters(), Rate(0.1, CPU))
    here.load_state_dict(copy.deepcopy(there.state_dict()))
    (group,) = here.param_groups
    assert not group["capturable"]
    assert isinstance(group["lr"], torch.Tensor)
    for parameter, state in here.state.items():
        assert state["exp_avg"].stride() == parameter.stride()
    trained(elsewhere, there)
    trained(plain, here)
    torch.testing.assert_close(plain.state_dict(), elsewhere.state_dict())


@pytest.mark.parametrize("method", ["backprop", "cdni", "stale"])
def test_channels_last_is_another_order_in_memory_and_nothing_else(method, monkeypatch):
    plain = _cnn(method=method)
    monkeypatch.setattr(trainer_module, "_memory_format", lambda *_: torch.channels_last)
    last = _cnn(method=method)
    convolutions = [p for p in last.model.parameters() if p.ndim == 4]
    images = [last.train[0], last.test[0], last._x]
    for tensor in (*convolutions, *images):
        assert tensor.is_contiguous(memory_format=torch.channels_last)
    last.load_state_dict(copy.deepcopy(plain.state_dict()))
    for _ in range(4):
        plain.advance()
        last.advance()
    assert last._x.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(
        last.model.state_dict(), plain.model.state_dict(), atol=2e-3, rtol=1e-3
    )
    # Resumed where images lie otherwise, it still is the same run.
    monkeypatch.undo()
    again = _cnn(method=method)
    again.load_state_dict(copy.deepcopy(last.state_dict()))
    again.advance()
    last.advance()
    torch.testing.assert_close(
        last.model.state_dict(), again.model.state_dict(), atol=2e-3, rtol=1e-3
    )


def test_only_convolutions_on_a_gpu_want_channels_last():
    chosen = trainer_module._memory_format
    convolution, linear = nn.Conv2d(3, 4, 3), nn.Linear(3, 4)
    gpu = torch.device("cuda")
    assert chosen(convolution, gpu) == torch.channels_last
    assert chosen(convolution, CPU) == chosen(linear, gpu) == torch.contiguous_format


@pytest.mark.parametrize(("schedule", "falls"), [("ours", False), ("paper", True)])
def test_models_of_inputs_keep_their_rate_or_fall_as_the_papers(schedule, falls):
    trainer = _fully_unlocked("digits-fcn", iterations=10, schedule=schedule)
    assert isinstance(trainer.stepper, Scheduled)
    optimizers = trainer.stepper.schedule.optimizers
    names = ("hidden1", "hidden1 feedback", "hidden1 input")
    first = {name: float(optimizers[name].param_groups[0]["lr"]) for name in names}
    for _ in range(10):
        trainer.advance()
    for name, rate in first.items():
        expected = rate if name.endswith("input") and not falls else rate / 100
        assert float(optimizers[name].param_groups[0]["lr"]) == pytest.approx(expected)


@pytest.mark.parametrize("p", [0.0, 0.4, 1.0])
def test_the_training_loss_is_that_of_the_steps_that_had_one(p, monkeypatch):
    torch.manual_seed(0)
    trainer = _fully_unlocked("mnist-fcn", iterations=20, p_update=p)
    seen = []
    step = trainer.stepper.step

    def noting(*arguments):
        seen.append(step(*arguments))
        return seen[-1]

    monkeypatch.setattr(trainer.stepper, "step", noting)
    for _ in range(12):
        trainer.advance()
    losses = [float(loss) for loss in seen if loss is not None]
    assert len(losses) == trainer.summary()["updates"]["output"]
    found = trainer.evaluate()["train_loss"]
    expected = sum(losses) / len(losses) if losses else math.nan
    assert found == pytest.approx(expected, nan_ok=True)
