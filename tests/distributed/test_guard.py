"""A step of a stage that raises poisons nothing."""

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import synthgrad as sg
from synthgrad.distributed import Options
from synthgrad.distributed._learner import Learner
from synthgrad.errors import NonFiniteError
from synthgrad.inputs import SyntheticInput
from tests.distributed.threads import Pipeline, build

NAN, INF = float("nan"), float("inf")


class Average(nn.Module):
    """Keeps a statistic of its own."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, h):
        self.mean += 0.1 * (h.detach().mean() - self.mean)
        return h - self.mean


def _learner(*, last=False, **settings):
    torch.manual_seed(0)
    norms = nn.BatchNorm1d(6), Average(), nn.Tanh()
    above: dict[str, Any] = {"feedback": None, "loss_fn": F.cross_entropy}
    if not last:
        above = {"feedback": sg.feedback.MLP(6, hidden=(5,), context=3), "loss_fn": None}
    return Learner(
        nn.Sequential(nn.Linear(4, 6), *norms, nn.Linear(6, 3 if last else 6)),
        partial(torch.optim.Adam, lr=1e-2),
        **above,
        inputs=SyntheticInput(2, 4, (5,)),
        label="stage 7",
        **settings,
    )


def _y():
    return torch.arange(8) % 3


def _step(learner, h, y=None):
    y = _y() if y is None else y
    with learner.step():
        output = learner.forward(h, y)
        return output, learner.backward(output, y)[1]


def _all(learner):
    """All that training changes."""
    state = copy.deepcopy(learner.state_dict())
    del state["random"]
    return state


def _assert_same(one, other):
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            _assert_same(one[key], other[key])
    else:
        assert one == other


def _with(tensor, value):
    tensor = tensor.clone()
    tensor.view(-1)[3] = value
    return tensor


def _bad_input(learner, value):
    _step(learner, _with(torch.randn(8, 4), value))


def _bad_inside(learner, value):
    learner.segment[3].register_forward_hook(lambda module, given, output: output * value)
    try:
        _step(learner, torch.randn(8, 4))
    finally:
        learner.segment[3]._forward_hooks.clear()


def _bad_loss(learner, value):
    given = learner.loss_fn
    learner.loss_fn = lambda output, y: F.cross_entropy(output, y) * value
    try:
        _step(learner, torch.randn(8, 4))
    finally:
        learner.loss_fn = given


def _bad_gradient(learner, value):
    kept = learner.segment[0].weight.register_hook(lambda grad: _with(grad, value))
    try:
        _step(learner, torch.randn(8, 4))
    finally:
        kept.remove()


def _bad_synthetic_error(learner, value):
    feedback = learner.interface.feedback
    kept = feedback.register_forward_hook(lambda module, given, output: output + value)
    try:
        _step(learner, torch.randn(8, 4))
    finally:
        kept.remove()


def _bad_target(learner, value):
    learner.fit(torch.randn(8, 6), _with(torch.randn(8, 6), value), _y())


def _bad_message_with_a_target(learner, value):
    learner.fit(_with(torch.randn(8, 6), value), torch.randn(8, 6), _y())


def _bad_batch_to_predict_from(learner, value):
    learner.predict(_with(torch.randn(8, 2), value), _y())


def _bad_batch_to_fit_inputs_with(learner, value):
    learner.fit_inputs(_with(torch.randn(8, 2), value), _y(), torch.randn(8, 4))


def _bad_message_to_fit_inputs_to(learner, value):
    learner.fit_inputs(torch.randn(8, 2), _y(), _with(torch.randn(8, 4), value))


@pytest.mark.parametrize("value", [NAN, INF, -INF], ids=str)
@pytest.mark.parametrize(
    ("last", "does", "says"),
    [
        (False, _bad_input, r"1 of 32 values of its input of shape \(8, 4\)"),
        (False, _bad_inside, "of its message"),
        (True, _bad_inside, "the loss"),
        (True, _bad_loss, "the loss is -?(nan|inf), expected a finite"),
        (
            False,
            _bad_gradient,
            r"1 of 24 values of the gradient of the parameter '0.weight' of",
        ),
        (True, _bad_gradient, r"the gradient of the parameter '0.weight' of Sequential"),
        (False, _bad_synthetic_error, ""),
        (False, _bad_target, r"1 of 48 values of the error that came back"),
        (False, _bad_message_with_a_target, "a message that an error came back for"),
        (False, _bad_batch_to_predict_from, "the batch that its input is predicted from"),
        (False, _bad_batch_to_fit_inputs_with, "the batch that its input is predicted from"),
        (False, _bad_message_to_fit_inputs_to, "its input"),
    ],
)
def test_a_step_that_raises_changes_nothing(last, does, says, value):
    learner = _learner(last=last)
    for warm in (False, True):  # before all others, and when it is known which statistics move
        if warm:
            _step(learner, torch.randn(8, 4))
            learner.fit_inputs(torch.randn(8, 2), _y(), torch.randn(8, 4))
            if not last:
                learner.fit(torch.randn(8, 6), torch.randn(8, 6), _y())
        before = _all(learner)
        with pytest.raises(NonFiniteError, match=f"stage 7: .*{says}"):
            does(learner, value)
        _assert_same(_all(learner), before)
        assert all(p.grad is None for p in learner.segment.parameters())
    _step(learner, torch.randn(8, 4))
    after = _all(learner)["segment"]
    assert not torch.equal(before["segment"]["0.weight"], after["0.weight"])
    assert before["segment"]["1.num_batches_tracked"] + 1 == after["1.num_batches_tracked"]


def test_nothing_is_checked_where_nobody_wants_that():
    learner = _learner(check_finite=False)
    _bad_input(learner, NAN)
    _bad_target(learner, NAN)
    assert _all(learner)["segment"]["1.running_mean"].isnan().any()


def _tokens_and_more(step):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(8, 4, generator=generator)
    return (x if step < 3 else _with(x, NAN)), _y()


@pytest.mark.parametrize("check", [True, False])
def test_a_batch_that_is_not_finite_ends_its_stage(check):
    segments = [nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6)), nn.Linear(6, 3)]
    stages = build(
        segments,
        [sg.feedback.Linear(6, context=3)],
        options=Options(timeout=1.0, patience=5.0, check_finite=check),
        batches=_tokens_and_more,
        loss_fn=F.cross_entropy,
        optimizer=partial(torch.optim.Adam, lr=1e-2),
    )
    pipeline = Pipeline(stages, 5)
    if check:
        with pytest.raises(NonFiniteError, match="stage 0: 1 of 32 values of its input"):
            pipeline.join()
        for thread in pipeline.threads:
            thread.join(20)
    else:
        pipeline.join()
    states = [t for s in segments for t in s.state_dict().values()]
    assert all(bool(t.isfinite().all()) for t in states) == check
