"""What is raised where a data set cannot be had, or is not what it should be."""

from __future__ import annotations

from pathlib import Path

from synthgrad.errors import SynthgradError
from synthgrad.lab.data.sources import Source


class DataError(SynthgradError, ValueError):
    """A file of a data set is missing and out of reach, damaged, or not in its format."""


def damaged(source: Source, path: Path, actual: str, expected: str) -> DataError:
    """The error for a file that is there, but with another sha256 than the known one."""
    return DataError(
        f"{source.name}: {path} is damaged or not the original: its sha256 is {actual} "
        f"({path.stat().st_size:,} bytes), expected {expected}. Delete the file to have it "
        f"downloaded again, or put an intact copy there; its home is {source.url}"
    )
