"""Decoupled neural interfaces: train networks whose parts do not wait for each other."""

from synthgrad import errors, feedback, functional, schedule
from synthgrad.context import context
from synthgrad.decouple import decouple, recouple
from synthgrad.interface import Interface
from synthgrad.probe import Distance, probe
from synthgrad.schedule import Unlocked
from synthgrad.values import losses

__version__ = "0.1.0"

__all__ = [
    "Distance",
    "Interface",
    "Unlocked",
    "context",
    "decouple",
    "errors",
    "feedback",
    "functional",
    "losses",
    "probe",
    "recouple",
    "schedule",
]
