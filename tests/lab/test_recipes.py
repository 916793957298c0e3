"""Every recipe has the paper's networks and feedback models, and trains."""

from typing import get_args

import pytest
import torch
from torch import nn

import synthgrad as sg
from synthgrad.feedback import MLP, Conv, Feedback
from synthgrad.lab.data import DataSet
from synthgrad.lab.experiments.image_recipes import RECIPES
from synthgrad.lab.experiments.images import FeedForwardConfig, Method

IMAGES = {
    "digits": (1, 8, 8),
    "mnist": (1, 28, 28),
    "fashion-mnist": (1, 28, 28),
    "cifar10": (3, 32, 32),
}
CNNS = ["mnist-cnn", "cifar10-cnn"]


def _fake(recipe, examples=8) -> DataSet:
    x = torch.rand(examples, *IMAGES[recipe.data])
    y = torch.arange(examples) % 10
    return DataSet(recipe.data, x, y, x, y, classes=10)


def _feedback(name, config) -> Feedback:
    """The feedback model behind the second hidden layer."""
    recipe = RECIPES[name]
    data = _fake(recipe, 2)
    model = recipe.model(config, data)
    feedback = model.get_submodule("hidden2.interface.feedback")
    assert isinstance(feedback, Feedback)
    return feedback


def _shape(feedback: Feedback) -> tuple[type, int, list[int], int]:
    """Kind, width of the message, widths of the hidden layers, width of the context."""
    assert isinstance(feedback, MLP | Conv)
    norms = (nn.BatchNorm1d, nn.BatchNorm2d)
    hidden = [m.num_features for m in feedback.modules() if isinstance(m, norms)]
    width = feedback.features if isinstance(feedback, MLP) else feedback.channels
    return type(feedback), width, hidden, feedback.context


@pytest.mark.parametrize(
    ("recipe", "dni", "cdni"),
    [
        ("mnist-fcn", (MLP, 256, [1024, 1024], 0), (MLP, 256, [], 10)),
        ("fashion-fcn", (MLP, 256, [1024, 1024], 0), (MLP, 256, [], 10)),
        ("cifar10-fcn", (MLP, 1000, [4000], 0), (MLP, 1000, [4000], 10)),
        ("mnist-cnn", (Conv, 64, [64, 64], 0), (Conv, 64, [64, 64], 10)),
        ("cifar10-cnn", (Conv, 128, [128, 128], 0), (Conv, 128, [128, 128], 10)),
    ],
)
def test_the_feedback_models_are_the_papers(recipe, dni, cdni):
    defaults = RECIPES[recipe].defaults
    assert _shape(_feedback(recipe, defaults.changed(method="dni"))) == dni
    assert _shape(_feedback(recipe, defaults.changed(method="cdni"))) == cdni


@pytest.mark.parametrize("method", ["dni", "cdni"])
@pytest.mark.parametrize("recipe", ["mnist-fcn", "mnist-cnn"])
@pytest.mark.parametrize("hidden", [(), (7,)], ids=["linear", "7"])
def test_feedback_hidden_comes_before_the_papers(recipe, method, hidden):
    config = RECIPES[recipe].defaults.changed(method=method, feedback_hidden=hidden, units=8)
    assert _shape(_feedback(recipe, config))[2] == list(hidden)


def test_a_convolutional_feedback_model_has_the_papers_filters():
    feedback = _feedback("cifar10-cnn", RECIPES["cifar10-cnn"].defaults)
    shapes = [tuple(m.weight.shape) for m in feedback.modules() if isinstance(m, nn.Conv2d)]
    # 128 channels of the message and 10 of the label go in.
    assert shapes == [(128, 138, 5, 5), (128, 128, 5, 5), (128, 128, 5, 5)]


@pytest.mark.parametrize("recipe", CNNS)
def test_cdni_sees_the_label_and_dni_does_not(recipe):
    h = torch.rand(4, 8, 4, 4)
    labels = torch.arange(4)
    for method, sees in (("cdni", True), ("dni", False)):
        config = RECIPES[recipe].defaults.changed(method=method, units=8, feedback_hidden=(6,))
        feedback = _feedback(recipe, config)
        for layer in feedback.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight)  # the last layer starts at zero
        same = torch.equal(feedback(h, labels), feedback(h, labels + 1))
        assert same is not sees


@pytest.mark.parametrize("method", get_args(Method))
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_by_every_method(name, method):
    recipe = RECIPES[name]
    config = recipe.defaults.changed(
        method=method, layers=3, units=6, batch_size=4, feedback_hidden=(5,)
    )
    trainer = recipe.build(recipe.settle(config), _fake(recipe), torch.device("cpu"))
    before = {k: p.detach().clone() for k, p in trainer.model.named_parameters()}
    for _ in range(3):
        trainer.advance()
    values = trainer.evaluate()
    assert 0 <= values["test_error"] <= 100
    interfaces = [m for m in trainer.model.modules() if isinstance(m, sg.Interface)]
    assert len(interfaces) == (0 if method == "backprop" else 2)
    # All that learns has moved, but for biases before a batch norm: it takes every shift back.
    still = {k for k, p in trainer.model.named_parameters() if torch.equal(p, before[k])}
    if method == "none":
        assert {k for k in before if k.startswith("hidden")} <= still
        still = {k for k in still if not k.startswith("hidden")}
    assert all(k.endswith("0.bias") for k in still)


@pytest.mark.parametrize("name", CNNS)
def test_a_cnn_trains_alike_inline_and_unlocked(name):
    losses = []
    for unlock in ("no", "update"):
        config = FeedForwardConfig(
            units=4, layers=4, batch_size=4, feedback_hidden=(5,), unlock=unlock
        )
        torch.manual_seed(0)
        recipe = RECIPES[name]
        trainer = recipe.build(recipe.settle(config), _fake(recipe), torch.device("cpu"))
        for _ in range(3):
            trainer.advance()
        losses.append(trainer.evaluate()["train_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_settings_suit_a_method_and_a_depth():
    recipe = RECIPES["mnist-fcn"]
    shallow, deep = (
        recipe.settle(recipe.defaults.changed(method="cdni", layers=layers)) for layers in (9, 10)
    )
    assert (shallow.iterations, shallow.learning_rate, shallow.warmup) == (5000, 1e-3, 0)
    assert (deep.iterations, deep.learning_rate, deep.warmup) == (20_000, 3e-5, 1000)
    assert deep.feedback_learning_rate == 1e-3
    chosen = recipe.settle(recipe.defaults.changed(layers=21, learning_rate=0.5, iterations=7))
    assert (chosen.iterations, chosen.learning_rate) == (7, 0.5)
