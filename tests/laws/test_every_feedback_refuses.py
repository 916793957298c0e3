"""What every feedback model refuses, naming the interface, what came and what was expected."""

import re
from functools import partial

import pytest
import torch
from torch import nn

import synthgrad as sg
from synthgrad.errors import ContextError, NonFiniteError, ShapeError
from synthgrad.feedback import Critic, Zero
from tests.laws.feedbacks import CASES, CLASSES, every

pytestmark = pytest.mark.usefixtures("as_installed")

takes_any_shape = (Zero, Critic)  # a critic's value is the user's own module
fussy = pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=name)
        for name, case in CASES.items()
        if not isinstance(case.make(), takes_any_shape)
    ],
)
labelled = pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=name)
        for name, case in CASES.items()
        if case.conditional and not isinstance(case.make(), takes_any_shape)
    ],
)


@fussy
def test_a_message_of_another_width(case):
    wrong = list(case.shape)
    wrong[1 if len(wrong) == 4 else -1] = 7
    with pytest.raises(ShapeError, match=r"interface 'it': .*\b6\b.*got.*" + _shape(wrong)):
        case.interface()(torch.randn(wrong).double(), case.context())


@fussy
def test_a_message_of_another_kind(case):
    wrong = [2, 6, 6, 6, 6]
    with pytest.raises(ShapeError, match=r"interface 'it': .*got.*" + _shape(wrong)):
        case.interface()(torch.randn(wrong).double(), case.context())


@labelled
def test_no_context(case):
    with pytest.raises(ContextError, match=f"interface 'it': .*context={CLASSES}.*no context"):
        case.interface()(case.message())


@labelled
def test_a_label_that_there_is_not(case):
    labels = torch.full(case.shape[:1], CLASSES)
    with pytest.raises(ContextError, match=rf"interface 'it': .*\[0, {CLASSES}\), got {CLASSES}"):
        case.interface()(case.message(), labels)


@labelled
def test_the_labels_of_another_batch(case):
    with pytest.raises(ContextError, match=r"interface 'it': .*batch size 4.*shape \(3,\)"):
        case.interface()(case.message(), torch.zeros(3, dtype=torch.long))


@every
def test_an_error_that_is_not_finite(case):
    interface, h = case.interface(), case.message().requires_grad_()
    received = interface(h, case.context())
    with pytest.raises(NonFiniteError, match=r"interface 'it': .*1 non-finite"):
        received.flatten()[0].mul(float("nan")).backward()
    assert h.grad is None
    assert all(p.grad is None for p in interface.parameters())


@fussy
def test_unlocked_before_anything_is_updated(case):
    sender, interface = nn.Linear(3, 3).double(), case.interface()
    model = nn.Sequential(sender, sg.Interface(Zero()), nn.Linear(3, 7).double(), interface)
    before = sender.weight.clone()
    schedule = sg.Unlocked(model, partial(torch.optim.SGD, lr=0.1))
    with pytest.raises(ShapeError, match="interface 'it'"):
        schedule.step(torch.randn(4, 3).double(), torch.sum, case.context())
    assert torch.equal(sender.weight, before)
    assert not schedule.optimizers


def _shape(sizes):
    return re.escape(str(tuple(sizes)))
