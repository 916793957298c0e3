"""Feedback models: *what* error comes back to a message."""

from synthgrad.feedback.base import Feedback
from synthgrad.feedback.critic import Critic
from synthgrad.feedback.fixed import Zero
from synthgrad.feedback.learned import MLP, Conv, Linear, Regression
from synthgrad.feedback.memory import Stale

__all__ = ["MLP", "Conv", "Critic", "Feedback", "Linear", "Regression", "Stale", "Zero"]
