"""The data set that is always there: scikit-learn's 8 by 8 digits, embedded in its package."""

from __future__ import annotations

import torch

from synthgrad.lab.data.dataset import DataSet, labels

TEST_EXAMPLES = 360


def digits(device: torch.device | str = "cpu") -> DataSet:
    """Loads 1,797 handwritten digits: 1,437 to train on and 360 to test, the same on every call.

    Both parts hold the ten digits in the same proportions.

    Args:
        device: where all tensors live.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    # Grey levels 0 … 16, as floats.
    x = (x / 16).astype("float32").reshape(-1, 1, 8, 8)
    train_x, test_x, train_y, test_y = train_test_split(
        x, y, test_size=TEST_EXAMPLES, stratify=y, random_state=0
    )
    return DataSet(
        name="digits",
        train_x=torch.tensor(train_x, device=device),
        train_y=labels(torch.tensor(train_y), device),
        test_x=torch.tensor(test_x, device=device),
        test_y=labels(torch.tensor(test_y), device),
        classes=10,
    )
