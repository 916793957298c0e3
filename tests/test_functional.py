import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from synthgrad.errors import ArgumentError, ShapeError
from synthgrad.functional import (
    check_lambda,
    mix,
    mixture,
    per_example,
    per_loss,
    redirect,
    regression_grad,
    squared_error,
)

seeds = st.integers(0, 2**16)
shapes = st.lists(st.integers(1, 4), min_size=1, max_size=4)
weights = st.floats(0, 1)
reductions = st.sampled_from(["mean", "sum"])
no_weights: Any = [-0.1, 1.0000001, 1.2, math.nan, math.inf, -math.inf]


def _errors(shape, seed, count=2):
    torch.manual_seed(seed)
    return torch.randn(count, *shape).double().unbind()


@given(shapes, seeds, weights)
def test_mix_is_the_weighted_mean(shape, seed, lambda_):
    real, synthetic = _errors(shape, seed)
    assert_close(mix(real, synthetic, lambda_), lambda_ * real + (1 - lambda_) * synthetic)


@given(shapes, seeds)
def test_mix_at_its_ends_is_one_side_and_never_looks_at_the_other(shape, seed):
    (real,) = _errors(shape, seed, 1)
    broken = torch.full_like(real, math.nan)
    assert mix(real, broken, 1.0) is real
    assert mix(broken, real, 0.0) is real


@pytest.mark.parametrize("lambda_", no_weights)
def test_a_lambda_that_is_no_weight_is_refused(lambda_):
    for use in (check_lambda, lambda w: mix(torch.ones(2), torch.ones(2), w)):
        with pytest.raises(ArgumentError, match=r"lambda_ must lie in \[0, 1\], got "):
            use(lambda_)


@given(st.lists(weights, max_size=5), seeds)
def test_the_closed_form_is_the_recursion_unrolled(lambdas, seed):
    # Through layers that are the identity: g_k^n is g_n itself.
    *synthetic, true = _errors((3,), seed, len(lambdas) + 1)
    carried = true
    for lambda_, error in zip(reversed(lambdas), reversed(synthetic), strict=True):
        carried = mix(carried, error, lambda_)
    assert_close(mixture([*synthetic, true], lambdas), carried)


@given(st.lists(weights, max_size=6))
def test_the_weights_of_the_closed_form_sum_to_one(lambdas):
    ones = [torch.ones(()).double()] * (len(lambdas) + 1)
    assert_close(mixture(ones, lambdas), ones[0])


@given(st.lists(st.sampled_from([0.0, 1.0]), max_size=4), seeds)
def test_without_fractions_the_closed_form_picks_the_first_that_is_trusted(lambdas, seed):
    errors = _errors((2,), seed, len(lambdas) + 1)
    assert_close(mixture(errors, lambdas), errors[[*lambdas, 0.0].index(0.0)])


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_closed_form_needs_an_error_more_than_lambdas(count):
    with pytest.raises(ShapeError, match=f"1 lambdas need 2 errors .*got {count}"):
        mixture([torch.ones(1)] * count, [0.5])


@given(shapes, seeds, reductions)
def test_per_example_and_per_loss_undo_each_other(shape, seed, reduction):
    (delta,) = _errors(shape, seed, 1)
    assert_close(per_loss(per_example(delta, reduction), reduction), delta)
    assert_close(per_example(delta, reduction), delta * (shape[0] if reduction == "mean" else 1))


@given(shapes, seeds, st.integers(1, 4))
def test_the_per_example_error_does_not_depend_on_the_batch(shape, seed, times):
    (h,) = _errors(shape, seed, 1)
    found = []
    for batch in (h, h.repeat(times, *[1] * (h.ndim - 1))):
        leaf = batch.clone().requires_grad_()
        (leaf.exp().sum() / len(leaf)).backward()
        assert leaf.grad is not None
        found.append(per_example(leaf.grad, "mean")[: len(h)])
    assert_close(found[0], found[1])


@given(shapes, seeds)
def test_the_squared_error_sums_over_features_and_averages_over_the_batch(shape, seed):
    prediction, target = _errors(shape, seed)
    rows = [(p - t).square().sum() for p, t in zip(prediction, target, strict=True)]
    assert_close(squared_error(prediction, target), torch.stack(rows).mean())


@given(shapes, seeds, reductions)
def test_the_regression_gradient_is_that_of_the_squared_error(shape, seed, reduction):
    prediction, delta = _errors(shape, seed)
    prediction.requires_grad_()
    squared_error(prediction, per_example(delta, reduction)).backward()
    synthetic = per_loss(prediction.detach(), reduction)
    before = synthetic.clone()
    assert_close(regression_grad(synthetic, delta, reduction), prediction.grad)
    assert torch.equal(synthetic, before)


def test_redirect_is_the_identity_whose_backward_pass_is_the_answer():
    h, other, asked = torch.randn(3, 2, requires_grad=True), torch.ones(2, requires_grad=True), []

    def respond(delta, kept):
        asked.append((delta, kept))
        return delta * 10, other.detach() * 7

    result = redirect(h, respond, (other,), (h.detach(),))
    assert torch.equal(result, h)
    (result.sum() + 2 * result.sum()).backward()
    assert len(asked) == 1  # only when all receivers have answered
    assert_close(asked[0], (torch.full((3, 2), 3.0), h.detach()))
    assert_close([h.grad, other.grad], [torch.full((3, 2), 30.0), torch.full((2,), 7.0)])


def test_redirect_may_be_followed_by_work_in_place_and_by_several_backward_passes():
    h = torch.tensor([[-1.0, 2.0]], requires_grad=True)
    sent = h * 1
    received = redirect(sent, lambda delta: (delta,))
    above = received.relu_() * 3
    for times in (1, 2):
        above.sum().backward(retain_graph=True)
        assert_close(h.grad, torch.tensor([[0.0, 3.0]]) * times)


def test_redirect_is_differentiable_once():
    h = torch.ones(2, 2, requires_grad=True)
    result = redirect(h, lambda delta: (delta * delta,)).square().sum()
    (first,) = torch.autograd.grad(result, h, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
