"""Recurrent networks: synthetic gradients over the boundaries of truncated BPTT (2.1, A.3)."""

from synthgrad.recurrent.explained import Explained
from synthgrad.recurrent.interface import RecurrentInterface

__all__ = ["Explained", "RecurrentInterface"]
