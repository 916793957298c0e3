import copy
import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import synthgrad as sg
from synthgrad.errors import ArgumentError, NonFiniteError, ShapeError
from synthgrad.feedback import MLP, Critic, Feedback, Linear, Stale, Zero
from tests.networks import Value, awake, backward, gradients, squares


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
    assert interface.step == 3


def test_the_step_survives_a_checkpoint():
    first, second = _interface(name="a"), _interface(name="b")
    for _ in range(3):
        first(_h()).sum().backward()
    second.load_state_dict(first.state_dict())
    assert second.step == 3
    assert second.current_lambda() == first.current_lambda()


@pytest.mark.parametrize("lambda_", [1.2, -0.1, math.nan, math.inf])
def test_a_lambda_outside_the_unit_interval_is_refused(lambda_):
    with pytest.raises(ArgumentError, match=r"\[0, 1\], got"):
        _interface(lambda_)
    interface = _interface(lambda step: lambda_, name="late")
    received = interface(_h())
    with pytest.raises(ArgumentError, match=r"interface 'late': .*\[0, 1\], got .* at step 0"):
        received.sum().backward()
    assert all(p.grad is None for p in interface.parameters())


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"feedback": nn.Linear(3, 3)}, "Feedback, got Linear"),
        ({"feedback": Zero(), "lambda_": "half"}, "number or a function of the step, got 'half'"),
        ({"feedback": Zero(), "reduction": "none"}, '"mean" or "sum", got \'none\''),
    ],
)
def test_a_wrong_argument_is_refused(arguments, complaint):
    with pytest.raises(ArgumentError, match=complaint):
        sg.Interface(**arguments)


@pytest.mark.parametrize(
    ("message", "came"),
    [
        ((torch.ones(2, 3),), "tuple"),
        (None, "NoneType"),
        (torch.ones(2, 3, dtype=torch.long), r"torch.int64 of shape \(2, 3\)"),
        (torch.ones(3), r"torch.float32 of shape \(3,\)"),
        (torch.tensor(1.0), r"torch.float32 of shape \(\)"),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_a_message_is_a_tensor_of_floats_with_a_batch(message, came, training):
    with pytest.raises(ShapeError, match=rf"interface 'it': a message is .*got {came}"):
        sg.Interface(Zero(), name="it").train(training)(message)


def test_an_interface_without_a_name_is_called_by_its_feedback_model():
    with pytest.raises(ShapeError, match=r"interface Linear\(features=3, context=0\): .*\(4, 5\)"):
        _interface()(torch.ones(4, 5))


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
    found, steps = gradients(shared), shared.step
    for message, scale in ((h, 1), (k, 2)):
        (scale * alone(message.detach().requires_grad_()).sum()).backward()
    assert_close(found, gradients(alone))
    assert steps == 2
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
    assert several.step == 1


def test_several_in_one_graph_do_not_disturb_each_other():
    left, right = _interface(), _interface()
    h = _h()
    (left(h).sum() * 3 + right(h * 2).sum()).backward()
    expected = left.feedback(h.detach()) + 2 * right.feedback(2 * h.detach())
    assert_close(h.grad, expected / 4)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("feedback", [Linear(3), MLP(3, (4,)), Stale(0.5), Critic(Value(3))])
def test_a_target_that_is_not_finite_is_refused_and_fits_nothing(feedback, bad):
    below, above = nn.Linear(3, 3), nn.Linear(3, 2)
    interface = sg.Interface(copy.deepcopy(feedback), name="hidden")
    model = nn.Sequential(below, interface, above)
    output = model(torch.randn(4, 3))
    before = copy.deepcopy(interface.state_dict())
    weight = torch.ones(4, 2)
    weight[1, 0] = bad
    with pytest.raises(NonFiniteError, match=r"interface 'hidden': .*\(4, 3\) has \d non-finite"):
        (output * weight).sum().backward()
    assert all(p.grad is None for m in (below, interface) for p in m.parameters())
    assert_close(interface.state_dict(), before)


def test_the_check_can_be_left_out():
    interface, h = _interface(check_finite=False), _h()
    (interface(h) * math.nan).sum().backward()
    assert h.grad is not None
    assert h.grad.isfinite().all()
    fits = [p.grad for p in interface.parameters() if p.grad is not None]
    assert fits
    assert all(fit.isnan().any() for fit in fits)


def test_large_finite_errors_are_no_mistake():
    h = torch.randn(4, 3, dtype=torch.bfloat16, requires_grad=True)
    (sg.Interface(Zero())(h) * 3e38).sum().backward()  # their sum overflows, none of them does
    assert h.grad is not None


class _Askew(Feedback):
    def forward(self, h, context=None):
        return h[:, :1]


def test_a_prediction_of_another_shape_than_its_message_is_refused():
    with pytest.raises(
        ShapeError, match=r"'it': .*_Askew returned \(4, 1\) for a message \(4, 3\)"
    ):
        sg.Interface(_Askew(), name="it")(_h())
