"""One contract for synthetic gradients and synthetic inputs: one suite for both."""

import copy
import io
import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import synthgrad as sg
from synthgrad.errors import ContextError, NonFiniteError, ShapeError
from synthgrad.feedback import Critic, Regression, Zero
from tests.laws.feedbacks import CLASSES, precisions
from tests.laws.predictions import MESSAGES, each

every = each()
learned = each(lambda case, model: bool(list(model.parameters())))
regressions = each(lambda case, model: isinstance(model, Regression))
labelled = each(lambda case, model: case.conditional and not isinstance(model, Critic))


@every
@precisions
def test_predicts_what_it_is_for(case, dtype):
    case = case.of(dtype)
    model, x, context = case.model(), case.sees(), case.context()
    for mode in (True, False):
        predicted = model.train(mode)(x, context)
        assert predicted.shape == case.predicted
        assert predicted.dtype == dtype
        assert predicted.device == x.device
        assert predicted.isfinite().all()
        assert predicted.any() or isinstance(model, Zero)


@every
@precisions
def test_its_loss_is_a_scalar_or_there_is_nothing_to_learn(case, dtype):
    case = case.of(dtype)
    model, x, context = case.model(), case.sees(), case.context()
    loss = model.loss(x, case.target(model), context)
    assert (loss is None) == (not list(model.parameters()))
    if loss is not None:
        assert loss.shape == ()
        assert loss > 0


@learned
def test_fitting_touches_the_model_alone(case):
    model, x, context = case.model(), case.sees(), case.context()
    target = case.target(model)
    before = x.clone(), target.clone()
    model.loss(x, target, context).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert x.grad is None
    assert target.grad is None
    assert torch.equal(x, before[0])
    assert torch.equal(target, before[1])


@learned
def test_fitting_brings_it_closer(case):
    model, x, context = case.model(), case.sees(), case.context()
    target = case.target(model).abs() + 1
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = model.loss(x, target, context)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@regressions
def test_a_target_that_it_predicts_already_is_no_loss(case):
    model, x, context = case.model().eval(), case.sees(), case.context()
    predicted = model(x, context).detach()
    assert model.loss(x, predicted, context) == 0
    # And one that is off by 1 everywhere: a mean over the batch, a sum over all else.
    off = model.loss(x, predicted + 1, context)
    assert_close(off.item(), float(predicted[0].numel()))


@regressions
def test_a_target_of_another_shape(case):
    model, x, context = case.model(), case.sees(), case.context()
    with pytest.raises(ShapeError, match=r"target has shape .*\(3, "):
        model.loss(x, case.target(model)[:3], context)


@every
def test_its_state_makes_another_the_same(case):
    model, x, context = case.model(), case.sees(), case.context()
    model(x, context)  # batch norm has seen something
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = case.make().to(case.dtype)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other.eval()(x, context), model.eval()(x, context))


@every
def test_a_copy_shares_nothing(case):
    model = case.model()
    before = copy.deepcopy(model.state_dict())
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for tensor in (*twin.parameters(), *twin.buffers()):
            tensor.add_(1)
    twin.observe(case.target(twin) + 1)
    assert_close(dict(model.state_dict()), dict(before), rtol=0, atol=0)


@regressions
@pytest.mark.usefixtures("as_installed")
def test_what_has_another_width(case):
    wrong = list(case.seen)
    wrong[1 if len(wrong) == 4 else -1] = 7
    with pytest.raises(ShapeError, match="got"):
        case.model()(torch.randn(wrong).to(case.dtype), case.context())


@labelled
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "no context"),
        (torch.full((4,), CLASSES), rf"\[0, {CLASSES}\), got {CLASSES}"),
        (torch.zeros(3, dtype=torch.long), "batch size 4"),
    ],
    ids=["none", "a label that there is not", "of another batch"],
)
@pytest.mark.usefixtures("as_installed")
def test_a_context_that_does_not_fit(case, labels, message):
    with pytest.raises(ContextError, match=message):
        case.model()(case.sees(), labels)


class _Breaks(nn.Linear):
    """Sends something that is not finite once told to."""

    bad: float | None = None

    def forward(self, input):
        sent = super().forward(input)
        return sent if self.bad is None else sent.index_fill(1, torch.tensor([0]), self.bad)


@each(lambda case, model: case.predicted == MESSAGES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_input_model_is_not_fitted_to_what_is_not_finite(case, bad):
    """Models of errors: tests/laws/test_every_feedback_refuses.py."""
    size, width = math.prod(case.seen[1:]), case.predicted[1]
    sender, model = _Breaks(size, width).double(), case.model()
    interface = sg.Interface(Zero(), inputs=model, name="it")
    net = nn.Sequential(nn.Flatten(), sender, interface, nn.Linear(width, 2).double())
    schedule = sg.FullyUnlocked(net, partial(torch.optim.SGD, lr=0.1))
    x, context = case.sees(), case.context()
    before = [p.clone() for p in model.parameters()]
    schedule.step(x, torch.Tensor.mean, context)
    after = [p.clone() for p in model.parameters()]
    assert all(not torch.equal(p, q) for p, q in zip(before, after, strict=True))
    sender.bad = bad
    with pytest.raises(NonFiniteError, match=r"interface 'it': the message .* NaN or infinity"):
        schedule.step(x, torch.Tensor.mean, context)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), after, strict=True))


@labelled
def test_the_context_matters(case):
    model, x = case.model().eval(), case.sees()
    one, other = (torch.full(x.shape[:1], label) for label in (0, 1))
    assert not torch.equal(model(x, one), model(x, other))
