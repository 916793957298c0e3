"""Data sets by name."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from synthgrad.errors import ArgumentError
from synthgrad.lab.data import batch, idx
from synthgrad.lab.data.dataset import DataSet, labels, pixels
from synthgrad.lab.data.files import data_root, ensure, read
from synthgrad.lab.data.sources import SOURCES, Source

# Train images, train labels, test images, test labels: images as bytes.
Raw = tuple[Tensor, Tensor, Tensor, Tensor]


def load(
    name: str,
    root: str | os.PathLike[str] | None = None,
    device: torch.device | str = "cpu",
) -> DataSet:
    """Loads a data set, and downloads it first where its files are missing.

    Every file's sha256 is checked on every load.

    Args:
        name: one of :func:`names`.
        root: the folder of the data sets, in torchvision's layout; without it ``$SYNTHGRAD_DATA``,
            and without that a cache folder of the user. ``digits`` needs none.
        device: where all tensors live.

    Returns:
        The whole data set in memory.

    Raises:
        ArgumentError: there is no data set of that name.
        DataError: a file is damaged, or is missing and cannot be downloaded.
    """
    if name == "digits":
        from synthgrad.lab.data.digits import digits

        return digits(device)
    if name not in READERS:
        raise ArgumentError(f"no data set is called {name!r}; there are {', '.join(names())}")
    source, place = SOURCES[name], data_root(root)
    ensure(source, place)
    train_x, train_y, test_x, test_y = READERS[name](source, place)
    return DataSet(
        name=name,
        train_x=pixels(train_x, device),
        train_y=labels(train_y, device),
        test_x=pixels(test_x, device),
        test_y=labels(test_y, device),
        classes=10,
    )


def names() -> tuple[str, ...]:
    """The names that :func:`load` knows."""
    return ("digits", *READERS)


def _idx(source: Source, root: Path) -> Raw:
    def part(file: str, ndim: int) -> Tensor:
        return idx.parse_gzip(read(source, root, file), ndim, str(source.path(root, file)))

    return (
        part("train-images-idx3-ubyte.gz", 3).unsqueeze(1),
        part("train-labels-idx1-ubyte.gz", 1),
        part("t10k-images-idx3-ubyte.gz", 3).unsqueeze(1),
        part("t10k-labels-idx1-ubyte.gz", 1),
    )


def _batches(source: Source, root: Path) -> Raw:
    def part(file: str) -> tuple[Tensor, Tensor]:
        return batch.parse(read(source, root, file), str(source.path(root, file)))

    train = [part(file) for file in source.files if file.startswith("data_batch_")]
    return (
        torch.cat([x for x, _ in train]),
        torch.cat([y for _, y in train]),
        *part("test_batch"),
    )


READERS: dict[str, Callable[[Source, Path], Raw]] = {
    "mnist": _idx,
    "fashion-mnist": _idx,
    "cifar10": _batches,
}
