"""Arguments of the wrong kind, and models that cannot do what they are for."""

from typing import Any, cast

import pytest
import torch
from torch import nn

import synthgrad as sg
from synthgrad.errors import ArgumentError, ShapeError
from synthgrad.feedback import MLP, Feedback, Linear, Regression, Stale, Zero
from tests.recurrent.cores import CORES, UNITS, awake, stream, unroll

pytestmark = pytest.mark.usefixtures("as_installed")

STATE = torch.zeros(4, UNITS)


class _Own(Feedback):
    def forward(self, h, context=None):
        return h

    def loss(self, h, target, context=None):
        return target.sum()


class _Narrow(Regression):
    def __init__(self):
        super().__init__()
        self.map = nn.Linear(UNITS, 3)

    def forward(self, h, context=None):
        return self.map(h)


def _it(**options):
    return sg.RecurrentInterface(awake(Linear(UNITS)), name="it", **options)


@pytest.mark.parametrize("model", [Stale(0.5), Zero(), _Own()])
def test_an_auxiliary_model_that_would_learn_nothing(model):
    with pytest.raises(ArgumentError, match=f"by regression .*; got {type(model).__name__}"):
        _it(auxiliary=model)


def test_an_auxiliary_model_of_another_width_is_refused_at_the_first_end():
    it = _it(auxiliary=Linear(UNITS, out_features=7))
    state = it.begin(STATE)
    with pytest.raises(ShapeError, match=r"'it': .*\(4, 4\); .*returned \(4, 7\)"):
        it.end(state, state)


def test_the_first_end_leaves_no_trace_in_the_auxiliary_model():
    model = MLP(UNITS, (3,))
    it = _it(auxiliary=model)
    state = it.begin(STATE)
    it.end(state, state)
    assert dict(model.named_buffers())["rest.0.num_batches_tracked"] == 0


def test_only_a_model_with_out_features_is_told_to_set_it():
    for model, hint in ((_Narrow(), False), (Linear(UNITS, out_features=3), True)):
        it = sg.RecurrentInterface(model)
        state = it.begin(STATE)
        with pytest.raises(ShapeError, match=r"returned \(4, 3\)") as error:
            it.end(state, state)
        assert ("out_features=4 makes" in str(error.value)) == hint


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), -1, "x", None])
def test_a_wrong_scale_is_refused_when_it_is_set(scale):
    it = _it()
    with pytest.raises(ArgumentError, match=r"'it': scale must be a finite number .*, got"):
        it.scale = scale
    assert it.scale == 0.1
    it.scale = 0
    assert "scale=0," in repr(it)


@pytest.mark.parametrize("batch_dim", ["x", 1.5, ["a"], (0, None), True])
def test_a_wrong_batch_dim(batch_dim):
    with pytest.raises(ArgumentError, match=r"batch_dim must be a dimension, or .*, got"):
        _it(batch_dim=batch_dim)
    assert _it(batch_dim=[0, 1]).batch_dim == (0, 1)


@pytest.mark.parametrize("lambda_", ["a", None, [0.5], torch.ones(2), float("nan")])
def test_a_lambda_that_is_no_number(lambda_):
    it = _it()
    state = it.begin(STATE)
    with pytest.raises(ArgumentError, match=r"'it': lambda_ must lie in \[0, 1\], got"):
        it.between(state, STATE, lambda_)


@pytest.mark.parametrize(
    ("steps", "came"),
    [
        (3, "int"),
        ("ab", "str"),
        ([], r"\[\]"),
        ([1, 2], r"\[int, int\]"),
        ([[STATE]], r"\[\[\(4, 4\)\]\]"),
        (torch.zeros(()), r"\(\)"),
        (torch.zeros(0, 4, UNITS), r"\(0, 4, 4\)"),
        (torch.zeros(2, 3, UNITS), r"2 of \(3, 4\)"),
    ],
)
def test_wrong_steps(steps, came):
    it = _it(auxiliary=Linear(UNITS))
    state = it.begin(STATE)
    with pytest.raises(ShapeError, match=rf"'it': steps must hold .*\(4, 4\), .*got {came}$"):
        it.end(state, state, steps=steps)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("ended", "came"),
    [
        ([True] * 4, "list"),
        ("yes", "str"),
        (1, "int"),
        (torch.ones(4), r"torch.float32 of shape \(4,\)"),
        (torch.tensor(True), r"torch.bool of shape \(\)"),
        (torch.ones(2, dtype=torch.bool), r"torch.bool of shape \(2,\); .*state .*\(4, 4\)"),
    ],
)
def test_a_wrong_mask_in_the_first_chunk(ended, came, training):
    it = _it().train(training)
    for fresh in (None, 0):
        with pytest.raises(ShapeError, match=rf"'it': ended must be .*\(batch,\), got {came}"):
            it.begin(STATE, ended=cast(Any, ended), fresh=fresh)


@pytest.mark.parametrize("fresh", [[STATE, STATE], {"h": STATE}, {"h": STATE, "d": STATE}, True])
def test_a_fresh_state_of_another_structure(fresh):
    it, ended = _it(), torch.ones(4, dtype=torch.bool)
    says = r"'it': fresh must be .*the state, \{'h': \(4, 4\), 'c': \(4, 4\)\}; got"
    with pytest.raises(ShapeError, match=says):
        it.begin({"h": STATE, "c": STATE}, ended=ended, fresh=fresh)


def test_no_rows():
    it = _it()
    state = it.begin(STATE[:0])
    with pytest.raises(ShapeError, match="'it': the batch has no examples, expected at least one"):
        it.end(state, state)


def test_a_context_without_a_batch_is_every_steps():
    class Scaled(Regression):
        def __init__(self):
            super().__init__()
            self.map = nn.Linear(UNITS, UNITS).double()

        def forward(self, h, context=None):
            return self.map(h) * context

    core = CORES["GRUCell"]().double()
    it = sg.RecurrentInterface(Scaled(), auxiliary=Scaled())
    state = core.initial(4)
    for _ in range(2):
        loss, state, messages, _ = unroll(core, *stream(2, 4), it.begin(state))
        end = it.end(state, messages[-1], steps=messages, context=torch.tensor(0.5).double())
        (loss + end).backward()
    assert all(p.grad is not None for p in it.parameters())
