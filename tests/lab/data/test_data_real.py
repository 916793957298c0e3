"""The real files, where there are any."""

import os

import pytest
import torch

from synthgrad.lab.data import load

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(
        not os.environ.get("SYNTHGRAD_DATA"), reason="SYNTHGRAD_DATA names no folder of data sets"
    ),
]


@pytest.mark.parametrize(
    ("name", "shape", "train", "per_class"),
    [
        ("mnist", (1, 28, 28), 60_000, None),
        ("fashion-mnist", (1, 28, 28), 60_000, 6_000),
        ("cifar10", (3, 32, 32), 50_000, 5_000),
    ],
)
def test_real_data(name, shape, train, per_class):
    data = load(name)
    assert data.train_x.shape == (train, *shape)
    assert data.test_x.shape == (10_000, *shape)
    assert data.train_x.dtype == torch.float32
    assert (data.train_x.min(), data.train_x.max()) == (0, 1)
    assert (data.test_x.min(), data.test_x.max()) == (0, 1)
    counts = data.train_y.bincount()
    assert data.classes == len(counts) == len(data.test_y.bincount()) == 10
    if per_class:
        assert set(counts.tolist()) == {per_class}
    else:  # MNIST's are uneven, and well known
        assert counts.tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    if name == "mnist":
        assert round(data.train_x.mean().item(), 4) == 0.1307
