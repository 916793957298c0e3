import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import synthgrad as sg
from synthgrad.feedback import Linear, Stale, Zero
from tests.networks import awake, backward, gradients, squares


def _interface(lambda_: Any = 0.0, **options):
    interface = sg.Interface(Linear(3), lambda_, **options)
    awake(interface)
    return interface


def _h():
    return torch.randn(4, 3, requires_grad=True)


@pytest.mark.parametrize("how", ["eval", "no_grad", "inference"])
def test_when_not_training_it_does_nothing_at_all(how):
    interface, h = _interface(), _h()
    if how == "eval":
        received = interface.eval()(h)
        received.sum().backward()
        assert_close(h.grad, torch.ones_like(h))
    else:
        with torch.no_grad() if how == "no_grad" else torch.inference_mode():
            received = interface(h)
    assert received is h
    assert interface.step == 0
    assert all(p.grad is None for p in interface.parameters())


def test_lambda_may_be_a_function_of_the_step():
    interface = _interface(lambda step: [1.0, 0.25, 0.0][step])
    for lambda_ in (1.0, 0.25, 0.0):
        h = _h()
        synthetic = interface.feedback(h.detach()) / 4
        interface(h).sum().backward()
        assert_close(h.grad, lambda_ * torch.ones_like(h) + (1 - lambda_) * synthetic)
        torch.optim.SGD(interface.parameters()).step()
    assert interface.step == 3


def test_the_step_survives_a_checkpoint():
    first, second = (_interface(lambda step: 1 / (1 + step)) for _ in range(2))
    optimizer = torch.optim.SGD(first.parameters())
    for _ in range(3):
        first(_h()).sum().backward()
        optimizer.step()
    second.load_state_dict(first.state_dict())
    assert second.step == 3
    assert second.current_lambda() == 1 / 4


@pytest.mark.parametrize("feedback", [Zero(), Stale(0.5)])
def test_work_in_place_right_behind_it(feedback):
    layer, interface = nn.Linear(3, 3), sg.Interface(feedback)
    model = nn.Sequential(layer, interface, nn.ReLU(inplace=True), nn.Linear(3, 2))
    x = torch.randn(6, 3)
    feedback.observe(torch.ones(6, 3))
    received = layer(x).detach().relu().requires_grad_()
    squares(torch.zeros(6, 2))(model[3](received)).mean().backward()
    expected = feedback(x).sum(dim=0) / 6
    backward(model, x, squares(torch.zeros(6, 2)))
    assert_close(layer.bias.grad, expected)
    if isinstance(feedback, Stale):
        assert_close(
            feedback.average, 0.5 * 0.5 + 0.5 * (received.grad * (received > 0)).sum(dim=0)
        )


def test_one_interface_used_twice_is_fitted_to_both_errors():
    shared = _interface()
    alone = copy.deepcopy(shared)
    h, k = _h(), _h()
    (shared(h).sum() + 2 * shared(k).sum()).backward()
    found = gradients(shared)
    for message, scale in ((h, 1), (k, 2)):
        (scale * alone(message.detach().requires_grad_()).sum()).backward()
    assert_close(found, gradients(alone))
    assert_close(h.grad, shared.feedback(h.detach()) / 4)
    assert_close(k.grad, shared.feedback(k.detach()) / 4)


def test_receivers_add_up_before_the_error_is_mixed_and_fitted():
    several = _interface(0.5)
    one = copy.deepcopy(several)
    h = _h()
    received = several(h)
    (received.sum() + (received * received).sum() + received[0].sum()).backward()
    g, k = h.grad, h.detach().requires_grad_()
    weight = torch.ones(4, 3)
    weight[0] += 1
    received = one(k)
    ((received * weight).sum() + received.square().sum()).backward()
    assert_close(g, k.grad)
    assert_close(gradients(several), gradients(one))


def test_several_in_one_graph_do_not_disturb_each_other():
    left, right = _interface(), _interface()
    h = _h()
    (left(h).sum() * 3 + right(h * 2).sum()).backward()
    expected = left.feedback(h.detach()) + 2 * right.feedback(2 * h.detach())
    assert_close(h.grad, expected / 4)
