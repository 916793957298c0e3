import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

import synthgrad as sg
from synthgrad.errors import ContextError
from synthgrad.feedback.encode import encode

ROWS, TIMES = torch.Size([3]), torch.Size([3, 4])
LABELS = torch.tensor([2, 0, 1])
ONE_HOT = torch.tensor([[0, 0, 1, 0, 0], [1, 0, 0, 0, 0], [0, 1, 0, 0, 0]])


def _encode(context, positions=ROWS, dtype=torch.float32):
    return encode(context, positions, 5, dtype)


@pytest.mark.parametrize("kind", [torch.int64, torch.int32, torch.uint8])
def test_labels_become_one_hot_rows(kind):
    assert torch.equal(_encode(LABELS.to(kind)), ONE_HOT.float())


@pytest.mark.parametrize("kind", [torch.int64, torch.uint8, torch.bool, torch.float64])
def test_rows_stay_as_they_are(kind):
    assert torch.equal(_encode(ONE_HOT.to(kind)), ONE_HOT.float())
    features = torch.randn(3, 5)
    assert torch.equal(_encode(features), features)


def test_truth_values_are_labels():
    flags = torch.tensor([True, False, True])
    assert torch.equal(encode(flags, ROWS, 2, torch.float32), torch.eye(2)[[1, 0, 1]])


@pytest.mark.parametrize("context", [LABELS, ONE_HOT, ONE_HOT.float()])
def test_what_has_no_time_axis_is_repeated_along_it(context):
    expected = ONE_HOT.float()[:, None].expand(3, 4, 5)
    assert torch.equal(_encode(context, TIMES), expected)


def test_labels_and_rows_may_differ_over_time():
    labels = torch.arange(12).reshape(3, 4) % 5
    expected = F.one_hot(labels, 5).float()
    assert torch.equal(_encode(labels, TIMES), expected)
    assert torch.equal(_encode(expected, TIMES), expected)


@given(st.integers(1, 5), st.integers(1, 6), st.sampled_from([torch.float64, torch.bfloat16]))
def test_the_result_has_the_dtype_asked_for_and_one_row_a_position(batch, width, dtype):
    labels = torch.arange(batch) % width
    rows = encode(labels, torch.Size([batch, 2]), width, dtype)
    assert rows.shape == (batch, 2, width)
    assert rows.dtype == dtype
    assert torch.equal(rows.argmax(dim=-1), labels[:, None].expand(-1, 2))


@pytest.mark.parametrize(
    ("context", "positions", "complaint"),
    [
        (None, ROWS, r"context=5\) but got no context.*sg.context"),
        ([2, 0, 1], ROWS, "must be a tensor, got list"),
        (torch.tensor(1), ROWS, r"batch size 3.*shape \(\)"),
        (LABELS[:2], ROWS, r"batch size 3.*shape \(2,\)"),
        (torch.tensor([2, 0, 5]), ROWS, r"\[0, 5\), got 5"),
        (torch.tensor([2, 0, -1]), ROWS, r"\[0, 5\), got -1"),
        (torch.tensor([[0, 1, 2, 7]] * 3), TIMES, r"\[0, 5\), got 7"),
        (LABELS.float(), ROWS, r"labels of shape \(3,\) or rows of shape \(3, 5\), got .*float32"),
        (torch.ones(3, 4), ROWS, r"rows of shape \(3, 5\), got .*\(3, 4\)"),
        (torch.ones(3, 5, 5), ROWS, r"rows of shape \(3, 5\), got .*\(3, 5, 5\)"),
        (torch.ones(3, 2, 5), TIMES, r"rows of shape \(3, 4, 5\), got .*\(3, 2, 5\)"),
        (torch.zeros(3, 2, dtype=torch.long), TIMES, r"labels of shape \(3, 4\).*\(3, 2\)"),
    ],
)
def test_what_does_not_fit_is_refused(context, positions, complaint):
    with pytest.raises(ContextError, match=complaint):
        _encode(context, positions)


def test_interfaces_under_one_context_share_the_rows():
    with sg.context(LABELS):
        first = _encode(LABELS)
        assert _encode(LABELS) is first
        assert _encode(LABELS, dtype=torch.float64).dtype == torch.float64
        assert _encode(LABELS, TIMES).shape == (3, 4, 5)
        assert encode(LABELS, ROWS, 3, torch.float32).shape == (3, 3)
    with sg.context(LABELS):
        assert _encode(LABELS) is not first
