"""A sample of what ``python -m tests.fuzz 10000`` tries, and the checks that it rests on."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from synthgrad import _checks
from synthgrad.errors import ArgumentError, ShapeError
from synthgrad.feedback import MLP, Conv, Linear
from tests.fuzz import fuzz

pytestmark = pytest.mark.usefixtures("as_installed")


def test_what_fails_ends_in_an_error_of_synthgrads_own_or_the_users():
    assert [str(raw) for raw in fuzz(400, seed=0) if raw is not None] == []


def test_integers_of_numpy_are_integers():
    numbers: list[Any] = [np.int64(6), (np.int32(4),), np.uint8(3), np.int16(2)]
    model = MLP(*numbers[:3], out_features=numbers[3])
    assert [type(n) for n in (model.features, model.context, model.out_features)] == [int] * 3
    assert model(torch.randn(5, 6), torch.tensor([0, 1, 2, 0, 1])).shape == (5, 2)


@pytest.mark.parametrize("value", [True, 2.0, math.nan, "2", None, np.float32(2), torch.tensor(2)])
def test_nothing_else_is_an_integer(value):
    with pytest.raises(ArgumentError, match=r"features must be an integer of at least 1, got "):
        Linear(value)


@pytest.mark.parametrize("value", [0.5, 1, np.float32(0.5), np.int64(1), Fraction(1, 2)])
def test_real_numbers(value):
    assert _checks.number("p", value, 0, 1) == float(value)


@pytest.mark.parametrize("value", [True, -0.1, 1.1, math.nan, math.inf, 10**400, "0.5", 1j])
def test_no_number_in_the_range(value):
    with pytest.raises(ArgumentError, match="p must be a finite number of at least 0 and at most"):
        _checks.number("p", value, 0, 1)


@pytest.mark.parametrize(
    "make", [lambda: Linear(10**12), lambda: MLP(10, (10**9, 10**9)), lambda: Conv(10**7)]
)
def test_what_no_memory_can_hold_is_refused_with_what_it_would_need(make):
    with pytest.raises(ArgumentError, match=r"=\[?\d+.* would need [\d,]+ GB for its parameters"):
        make()


@pytest.mark.parametrize(
    ("h", "came"),
    [
        (torch.ones(5, 6, dtype=torch.long), r"torch.int64 of shape \(5, 6\)"),
        (torch.randn(5, 6).to_sparse(), "torch.sparse_coo"),
        (torch.randn(5, 6, device="meta"), "on meta"),
        (torch.randn(5, 6).double(), "torch.float64 on cpu"),
        (None, "got None"),
    ],
)
def test_a_message_that_a_feedback_model_cannot_see_is_named(h, came):
    with pytest.raises(ShapeError, match=came):
        Linear(6)(h)
