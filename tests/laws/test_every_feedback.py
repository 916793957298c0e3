"""What every feedback model has to do, whatever it is: one suite for all of them."""

import copy
import io
import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.testing import assert_close

import synthgrad as sg
from synthgrad.feedback import Zero
from tests.laws.feedbacks import CLASSES, answer, every, precisions


@every
@precisions
def test_predicts_an_error_like_the_message(case, dtype):
    case = case.of(dtype)
    interface, h = case.interface(), case.message()
    for mode in (True, False):
        prediction = interface.feedback.train(mode)(h, case.context())
        assert prediction.shape == h.shape
        assert prediction.dtype == dtype
        assert prediction.isfinite().all()
        assert prediction.any() or isinstance(interface.feedback, Zero)


@every
@precisions
def test_has_a_scalar_loss_exactly_if_it_has_parameters(case, dtype):
    case = case.of(dtype)
    model, h = case.interface().feedback, case.message()
    target = h.flatten(1).mean(dim=1) if model.fitted_to == "loss" else torch.randn_like(h)
    loss = model.loss(h, target, case.context())
    assert (loss is None) == (not list(model.parameters()))
    if loss is not None:
        assert loss.shape == ()
        assert loss >= 0
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@every
@precisions
def test_the_sender_gets_the_prediction_and_no_gradient_of_the_fit(case, dtype):
    case = case.of(dtype)
    interface, h, context = case.interface(), case.message().requires_grad_(), case.context()
    expected = interface.feedback(h.detach(), context) / len(h)
    received = interface(h, context)
    assert torch.equal(received, h)
    answer(received)
    assert torch.equal(h.grad, expected)
    assert all(p.grad is not None for p in interface.parameters())


@every
def test_a_model_of_another_precision_than_its_message(case):
    interface = case.interface()
    h = case.message().bfloat16().requires_grad_()
    received = interface(h, case.context())
    answer(received)
    assert received.dtype == h.grad.dtype == torch.bfloat16
    assert all(p.grad.dtype == p.dtype == case.dtype for p in interface.parameters())


@every
def test_it_may_change_its_precision_after_use(case):
    interface = case.interface()
    answer(interface(case.message().requires_grad_(), case.context()))
    interface.zero_grad()
    case = case.of(torch.float32)
    received = interface.to(case.dtype)(case.message().requires_grad_(), case.context())
    answer(received)
    assert received.dtype == torch.float32
    assert all(p.grad is not None and p.grad.dtype == case.dtype for p in interface.parameters())


@every
def test_its_state_makes_another_the_same(case):
    interface, h, context = case.interface(), case.message(), case.context()
    file = io.BytesIO()
    torch.save(interface.feedback.state_dict(), file)
    file.seek(0)
    other = case.model()
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other.eval()(h, context), interface.feedback.eval()(h, context))


@every
def test_a_copy_shares_nothing(case):
    interface, h, context = case.interface(), case.message(), case.context()
    twin = copy.deepcopy(interface)
    before = copy.deepcopy(interface.state_dict())
    with torch.no_grad():
        for tensor in (*twin.parameters(), *twin.buffers()):
            tensor.add_(1)
    twin.feedback.observe(h + 1)
    received = twin(h.requires_grad_(), context)
    answer(received)
    assert_close(interface.state_dict(), before, rtol=0, atol=0)
    assert all(p.grad is None for p in interface.parameters())


@every
def test_learns_inside_an_unlocked_schedule(case):
    interface = case.interface()
    features = math.prod(case.shape[1:])
    sender = nn.Sequential(nn.Linear(3, features), nn.Unflatten(1, case.shape[1:])).double()
    model = nn.Sequential(sender, interface, nn.Flatten(), nn.Linear(features, 2).double())
    before = copy.deepcopy(model.state_dict())
    schedule = sg.Unlocked(model, partial(torch.optim.SGD, lr=0.1))
    x, labels = torch.randn(4, 3).double(), torch.randint(CLASSES, (4,))
    schedule.step(x, lambda output: output.square().sum(dim=1), context=labels)
    changed = {n for n, value in model.state_dict().items() if not _equal(value, before[n])}
    stay = {"0.0.weight", "0.0.bias"} if isinstance(interface.feedback, Zero) else set()
    assert changed == set(before) - stay


def _equal(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, Tensor) else a == b
