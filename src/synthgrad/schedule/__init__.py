"""Schedules: *when* the parts of a network run."""

from synthgrad.schedule.base import MakeOptimizer, Schedule, Segment, Step
from synthgrad.schedule.fully_unlocked import FullyUnlocked
from synthgrad.schedule.sporadic import Sporadic
from synthgrad.schedule.unlocked import Unlocked

__all__ = [
    "FullyUnlocked",
    "MakeOptimizer",
    "Schedule",
    "Segment",
    "Sporadic",
    "Step",
    "Unlocked",
]
