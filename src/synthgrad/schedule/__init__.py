"""Schedules: *when* the parts of a network run."""

from synthgrad.schedule.unlocked import Unlocked

__all__ = ["Unlocked"]
