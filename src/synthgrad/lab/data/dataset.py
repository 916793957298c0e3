"""What every loader of images returns."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from synthgrad.lab.data.errors import DataError


@dataclass(frozen=True)
class DataSet:
    """A whole data set of labelled images, in memory, on one device.

    Attributes:
        name: what it is called on the command line.
        train_x: float32 pixels in [0, 1], ``(examples, channels, height, width)``.
        train_y: int64 labels in ``0 … classes - 1``, ``(examples,)``.
        test_x: the same for the test set.
        test_y: the same for the test set.
        classes: how many labels there are.

    Raises:
        DataError: images and labels do not fit each other, or a label is out of range.
    """

    name: str
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: int

    def __post_init__(self) -> None:
        for part, x, y in (
            ("train", self.train_x, self.train_y),
            ("test", self.test_x, self.test_y),
        ):
            if x.ndim != 4 or y.shape != x.shape[:1]:
                raise DataError(
                    f"{self.name}: {part} images {tuple(x.shape)} and labels {tuple(y.shape)}, "
                    "expected (examples, channels, height, width) and (examples,)"
                )
            if y.numel() and not (int(y.min()) >= 0 and int(y.max()) < self.classes):
                raise DataError(
                    f"{self.name}: {part} labels run from {int(y.min())} to {int(y.max())}, "
                    f"expected 0 to {self.classes - 1}"
                )


def pixels(raw: Tensor, device: torch.device | str) -> Tensor:
    """Bytes 0 … 255 as float32 in [0, 1] on the device."""
    # The bytes travel, not the floats: a quarter of the traffic.
    return raw.to(device).float().div_(255)


def labels(raw: Tensor, device: torch.device | str) -> Tensor:
    """Labels of any integer type as int64 on the device."""
    return raw.to(device).long()
