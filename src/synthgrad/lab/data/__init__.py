"""Data sets: embedded, on disk in torchvision's layout, or from their public homes."""

from synthgrad.lab.data.dataset import DataSet
from synthgrad.lab.data.errors import DataError
from synthgrad.lab.data.load import load, names

__all__ = ["DataError", "DataSet", "load", "names"]
