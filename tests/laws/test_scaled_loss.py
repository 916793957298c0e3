"""Multiplying the loss multiplies every gradient, where ``sg.loss`` marks it."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

import synthgrad as sg
from synthgrad.errors import LockingError, ShapeError
from synthgrad.feedback import MLP, Critic, Linear, Stale
from tests.networks import Value, awake, chain, gradients, hidden, interfaces, squares

FEEDBACK = {
    "linear": lambda h: Linear(h.shape[1]),
    "mlp": lambda h: MLP(h.shape[1], (6,)),
    "critic": lambda h: Critic(Value(h.shape[1])),
    "stale": lambda h: Stale(0.5),
}
every = pytest.mark.parametrize("kind", FEEDBACK)


def _model(kind="linear", lambda_: Any = 0.0):
    model = chain([4, 5, 5, 2])
    x = torch.randn(2, 4).double()
    sg.decouple(model, hidden(model), FEEDBACK[kind], lambda_=lambda_, example_inputs=x)
    for interface in interfaces(model):
        interface.feedback.observe(torch.randn(6, 5).double())
    return awake(model)


def _batch(rows=6):
    return torch.randn(rows, 4).double(), squares(torch.randn(rows, 2).double())


def _loss(model, x, loss_fn):
    return sg.losses(loss_fn(model(x))).mean()


@every
@pytest.mark.parametrize("lambda_", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("factor", [0.25, 65536.0])
def test_every_gradient_is_multiplied(kind, lambda_, factor):
    model, (x, loss_fn) = _model(kind, lambda_), _batch()
    kept = {name: value.clone() for name, value in model.named_buffers()}
    sg.loss(_loss(model, x, loss_fn)).backward()
    expected = {name: factor * grad for name, grad in gradients(model).items()}
    averages = {name: value.clone() for name, value in model.named_buffers()}
    for name, value in model.named_buffers():
        value.copy_(kept[name])
    model.zero_grad()
    (sg.loss(_loss(model, x, loss_fn)) * factor).backward()
    assert_close(gradients(model), expected)
    assert_close(dict(model.named_buffers()), averages)  # what is remembered is unscaled


def test_a_loss_of_no_weight_teaches_nothing():
    for kind in FEEDBACK:
        model, (x, loss_fn) = _model(kind), _batch()
        before = {name: value.clone() for name, value in model.named_buffers()}
        (sg.loss(_loss(model, x, loss_fn)) * 0).backward()
        assert all(not grad.any() for grad in gradients(model).values())
        if kind == "stale":
            assert_close(dict(model.named_buffers()), before)


def test_accumulated_parts_are_the_whole_batch():
    model, (x, _) = _model(), _batch(8)
    target = torch.randn(8, 2).double()
    sg.loss((model(x) - target).square().mean()).backward()
    whole = gradients(model)
    model.zero_grad()
    for rows, targets in zip(x.chunk(4), target.chunk(4), strict=True):
        (sg.loss((model(rows) - targets).square().mean()) / 4).backward()
    assert_close(gradients(model), whole)


def test_a_loss_scaler_and_what_it_takes_back():
    model, (x, loss_fn) = _model(), _batch()
    twin = _model()
    twin.load_state_dict(model.state_dict())
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (model, twin)]
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(sg.loss(_loss(model, x, loss_fn))).backward()
    scaler.step(optimizers[0])
    scaler.update()
    _loss(twin, x, loss_fn).backward()
    optimizers[1].step()
    assert_close(dict(model.named_parameters()), dict(twin.named_parameters()))


@pytest.mark.parametrize("kind", ["linear", "stale"])
def test_a_loss_scaler_that_nobody_told_of_is_refused_before_anything_changes(kind):
    model, (x, loss_fn) = _model(kind), _batch()
    before = {name: p.clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(_loss(model, x, loss_fn)).backward()
    with pytest.raises(LockingError, match=r"interface '\d'.*GradScaler.*synthgrad\.loss"):
        scaler.step(optimizer)
    assert_close(dict(model.named_parameters()), before, rtol=0, atol=0)


@pytest.mark.parametrize("scaled", [{"enabled": False}, {"init_scale": 1.0}])
def test_a_loss_scaler_that_does_nothing_is_no_mistake(scaled):
    model, (x, loss_fn) = _model(), _batch()
    scaler = torch.amp.GradScaler("cpu", **scaled)
    scaler.scale(_loss(model, x, loss_fn)).backward()
    scaler.step(torch.optim.SGD(model.parameters(), lr=0.1))


def test_losses_with_weights_of_their_own_are_refused():
    model, (x, _) = _model(), _batch()
    output = model(x)
    both = sg.loss(output.square().mean()) * 0.3 + sg.loss(output.sum()) * 0.7
    with pytest.raises(LockingError, match=r"interface '1'.*\[0\.3.*0\.7"):
        both.backward()


def test_one_mark_around_the_weighted_sum_or_equal_marks_are_right():
    model, (x, _) = _model(), _batch()

    def losses():
        output = model(x)
        return output.square().mean(), output.sum()

    first, second = losses()
    (first + second).backward()
    expected = {name: 3 * grad for name, grad in gradients(model).items()}
    model.zero_grad()
    first, second = losses()
    (3 * sg.loss(first + second)).backward()
    assert_close(gradients(model), expected)
    model.zero_grad()
    first, second = losses()
    (3 * sg.loss(first) + 3 * sg.loss(second)).backward()
    assert_close(gradients(model), expected)


def test_a_marked_loss_that_is_left_out_is_missed():
    model, (x, _) = _model(), _batch()
    output = model(x)
    sg.loss(output.square().mean())
    with pytest.raises(LockingError, match=r"interface '1'.*synthgrad\.loss marked"):
        (output.sum() * 4).backward()


def test_the_inner_of_two_marks_counts():
    model, (x, loss_fn) = _model(), _batch()
    (2 * sg.loss(_loss(model, x, loss_fn))).backward()
    expected = gradients(model)
    model.zero_grad()
    sg.loss(2 * sg.loss(_loss(model, x, loss_fn))).backward()
    assert_close(gradients(model), expected)


def test_senders_that_do_not_wait_cannot_follow():
    model, (x, loss_fn) = _model(), _batch()
    schedule = sg.Unlocked(model, lambda p: torch.optim.SGD(p, lr=0.1))
    with pytest.raises(LockingError, match=r"interface '1'.*multiplied by 4"):
        schedule.step(x, lambda output: 4 * sg.loss(loss_fn(output).mean()))
    schedule.step(x, lambda output: sg.loss(4 * loss_fn(output).mean()))


class Parted(nn.Module):
    """Its lower part is run again in the backward pass."""

    def __init__(self, model, reentrant):
        super().__init__()
        self.model = model
        self.reentrant = reentrant

    def forward(self, x):
        below = checkpoint(self.model[:2], x, use_reentrant=self.reentrant)
        return self.model[2](below)


def test_a_marked_loss_of_before_is_none_of_a_reentrant_checkpoints_business():
    model, (x, loss_fn) = _model(), _batch()
    x.requires_grad_()
    marked = sg.loss(_loss(model, x, loss_fn))
    marked.backward()
    expected = gradients(model)
    model.zero_grad()
    _loss(Parted(model, True), x, loss_fn).backward()
    assert_close(gradients(model), expected)
    assert marked.requires_grad  # it is still there


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints_follow_or_say_that_they_cannot(reentrant):
    model, (x, loss_fn) = _model(), _batch()
    x.requires_grad_()
    (4 * sg.loss(_loss(model, x, loss_fn))).backward()
    expected = gradients(model)
    model.zero_grad()
    loss = 4 * sg.loss(_loss(Parted(model, reentrant), x, loss_fn))
    if reentrant:
        with pytest.raises(LockingError, match=r"interface '1'.*use_reentrant=False"):
            loss.backward()
    else:
        loss.backward()
        assert_close(gradients(model), expected)


def test_it_is_the_identity_and_marks_scalars_only():
    loss = torch.tensor(2.0, requires_grad=True)
    assert sg.loss(loss) == loss
    with torch.no_grad():
        assert sg.loss(loss) is loss
    with pytest.raises(ShapeError, match=r"one scalar loss, got \(3,\)"):
        sg.loss(torch.ones(3))


def test_a_function_of_the_step_counts_optimiser_steps():
    seen = []

    def lambda_(step):
        seen.append(step)
        return 0.5

    model, (x, loss_fn) = _model(lambda_=lambda_), _batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        for _ in range(3):
            (sg.loss(_loss(model, x, loss_fn)) / 3).backward()
        optimizer.step()
    assert seen == [0] * 6 + [1] * 6
