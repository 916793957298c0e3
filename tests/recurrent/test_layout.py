import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from synthgrad.errors import ArgumentError, ShapeError
from synthgrad.recurrent._state import layout

sizes = st.lists(st.integers(1, 3), max_size=3)


@given(st.lists(st.tuples(sizes, st.integers(0, 3)), min_size=1, max_size=4), st.integers(1, 4))
def test_split_is_the_inverse_of_rows_and_each_row_is_one_example(drawn, batch):
    dims = tuple(min(at, len(shape)) for shape, at in drawn)
    tensors, total = [], 0
    for (shape, _), dim in zip(drawn, dims, strict=True):
        count = math.prod(shape) * batch
        t = torch.arange(total, total + count).float().view(batch, *shape).movedim(0, dim)
        tensors.append(t)
        total += count
    arranged = layout(tensors, batch, dims)
    rows = arranged.rows(tensors)
    assert rows.shape == (batch, arranged.width)
    for b in range(batch):
        flat = [t.select(d, b).flatten() for t, d in zip(tensors, dims, strict=True)]
        assert torch.equal(rows[b], torch.cat(flat))
    for part, tensor in zip(arranged.split(rows), tensors, strict=True):
        assert torch.equal(part, tensor)
    mask = torch.arange(batch) == 0
    for beside, tensor, dim in zip(arranged.beside(mask), tensors, dims, strict=True):
        kept = torch.where(beside, 0, tensor + 1)
        assert not kept.select(dim, 0).any()
        assert kept.count_nonzero() == tensor.numel() * (batch - 1) // batch


@pytest.mark.parametrize(
    ("shape", "batch", "dim"),
    [
        ((5, 7), 5, 0),
        ((5,), 5, 0),
        ((5, 5), 5, 0),  # two dimensions: always (batch, units)
        ((2, 5, 7), 5, 1),  # nn.LSTM
        ((5, 2, 7), 5, 0),
        ((1, 1, 7), 1, 0),  # either way the same
        ((2, 5, 3, 3), 5, 1),
        ((5, 8, 3, 3), 5, 0),
    ],
)
def test_the_batch_is_found(shape, batch, dim):
    assert layout([torch.zeros(shape)], batch, None).dims == (dim,)


def test_the_batch_may_be_said():
    tensors = [torch.zeros(5, 5, 5), torch.zeros(5, 2)]
    assert layout(tensors, 5, (2, 0)).dims == (2, 0)
    assert layout(tensors[:1], 5, -1).dims == (2,)


@pytest.mark.parametrize(
    ("shape", "batch_dim", "error", "complaint"),
    [
        ((5, 5, 7), None, ArgumentError, r"\(5, 5, 7\) are as long as the batch, 5; .*batch_dim=1"),
        ((4, 7), None, ShapeError, r"5 examples, .*\(4, 7\) has not that many in dimension 0"),
        ((4, 2, 7), None, ShapeError, r"dimension 0 or 1"),
        ((5, 7), 1, ShapeError, r"5 examples, .*\(5, 7\) has not that many in dimension 1"),
        ((5, 7), 2, ShapeError, r"dimension 2"),
        ((5, 7), (0, 0), ArgumentError, r"\(0, 0\) is for 2 tensors, the state has 1"),
    ],
)
def test_a_batch_that_cannot_be_found_is_refused(shape, batch_dim, error, complaint):
    with pytest.raises(error, match=complaint):
        layout([torch.zeros(shape)], 5, batch_dim)
