"""Counts the bytes of every tensor that is alive, whoever holds it: no allocator hides anything."""

from functools import partial

import pytest
import torch
from torch import nn

import synthgrad as sg
from synthgrad.feedback import MLP, Critic, Stale, Zero
from tests.live import Live
from tests.networks import Residual, Value, squares

BATCH, WIDTH = 512, 4  # so that a message is much larger than any parameter


def _messages_alive(depth, feedback, schedule):
    """The most that is alive at any time of a step, in units of one message."""
    layers = [Residual(WIDTH) for _ in range(depth)]
    model, x, y = nn.Sequential(*layers), torch.randn(BATCH, WIDTH), torch.randn(BATCH, WIDTH)
    cuts = [str(i) for i in range(depth - 1)]
    sg.decouple(model, cuts, feedback, example_inputs=x)
    unlocked = sg.Unlocked(model, partial(torch.optim.SGD, lr=0.1))
    unlocked.step(x, squares(y))
    with Live() as live:
        if schedule == "unlocked":
            unlocked.step(x, squares(y))
        else:
            squares(y)(model(x)).mean().backward()
    return live.peak / (BATCH * WIDTH * 4)


models = {
    "linear": "linear",
    "mlp": lambda h: MLP(WIDTH, (WIDTH,)),
    "stale": lambda h: Stale(0.5),
    "zero": lambda h: Zero(),
    "critic": lambda h: Critic(Value(WIDTH)),
}


@pytest.mark.parametrize("feedback", models.values(), ids=models.keys())
def test_unlocked_training_keeps_the_activations_of_one_segment_only(feedback):
    few, many = (_messages_alive(depth, feedback, "unlocked") for depth in (4, 16))
    assert many - few < 2  # 12 segments more, and their gradients, weigh less than two messages


@pytest.mark.parametrize("kind", ["unlocked", "fully unlocked"])
def test_nor_does_the_first_step_keep_more(kind):
    def alive(depth):
        layers = [Residual(WIDTH) for _ in range(depth)]
        model, x, y = nn.Sequential(*layers), torch.randn(BATCH, WIDTH), torch.randn(BATCH, WIDTH)
        cuts, sgd = [str(i) for i in range(depth - 1)], partial(torch.optim.SGD, lr=0.1)
        inputs = lambda x, h: sg.inputs.SyntheticInput(WIDTH, WIDTH, ())  # noqa: E731
        sg.decouple(model, cuts, "linear", example_inputs=x, inputs=inputs)
        if kind == "unlocked":
            schedule = sg.Unlocked(model, sgd)
        else:
            schedule = sg.FullyUnlocked(model, sgd, order="forward")
        with Live() as live:
            schedule.step(x, squares(y))
        return live.peak / (BATCH * WIDTH * 4)

    assert alive(16) - alive(4) < 2


def test_inline_training_keeps_them_all():
    few, many = (_messages_alive(depth, "linear", "inline") for depth in (4, 16))
    assert many - few > 12


@pytest.mark.parametrize("feedback", models.values(), ids=models.keys())
def test_a_loss_that_outlives_its_backward_pass_keeps_no_message(feedback):
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 1))
    x = torch.randn(BATCH, WIDTH)
    sg.decouple(model, "0", feedback, example_inputs=x)
    with Live() as live:
        loss = sg.losses(model(x).squeeze(1)).mean()
        loss.backward()
        assert sum(live.sizes.values()) < BATCH * WIDTH * 4 < live.peak
