"""Examples to train on in a benchmark: real ones where they are, else random ones."""

from __future__ import annotations

from pathlib import Path

import torch

from synthgrad.lab.data import DataSet, load
from synthgrad.lab.data.files import data_root
from synthgrad.lab.data.sources import SOURCES

SHAPES = {
    "mnist": (60_000, 10_000, (1, 28, 28)),
    "fashion-mnist": (60_000, 10_000, (1, 28, 28)),
    "cifar10": (50_000, 10_000, (3, 32, 32)),
}
"""Training images, test images and an image's shape, by data set."""


def examples(name: str, root: Path | None, device: torch.device) -> tuple[DataSet, bool]:
    """A data set, or one of the same shape; nothing is downloaded.

    Returns:
        The examples, and whether they are real.
    """
    source = SOURCES.get(name)
    if source is None:  # it comes with a library
        return load(name, root=root, device=device), True
    place = data_root(root)
    if all(source.path(place, file).exists() for file in source.files):
        return load(name, root=root, device=device), True
    train, test, image = SHAPES[name]
    generator = torch.Generator().manual_seed(0)

    def random(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.rand(count, *image, generator=generator)
        y = torch.randint(10, (count,), generator=generator)
        return x.to(device), y.to(device)

    return DataSet(name, *random(train), *random(test), classes=10), False
