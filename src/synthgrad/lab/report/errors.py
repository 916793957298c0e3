"""What is raised where a report cannot be made of what was given."""

from __future__ import annotations

from synthgrad.errors import SynthgradError


class ReportError(SynthgradError, ValueError):
    """A folder holds no run, or one of a run's files cannot be read."""
