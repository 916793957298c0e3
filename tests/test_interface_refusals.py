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
from tests.networks import Value, awake

pytestmark = pytest.mark.usefixtures("as_installed")


def _interface(lambda_: Any = 0.0, **options):
    interface = sg.Interface(Linear(3), lambda_, **options)
    awake(interface)
    return interface


def _h():
    return torch.randn(4, 3, requires_grad=True)


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
