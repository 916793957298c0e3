"""Decoupled neural interfaces: train networks whose parts do not wait for each other."""

import sys as _sys

if _sys.argv[:1] == ["-m"] and "synthgrad.lab.cli" in _sys.orig_argv:
    # ``python -m synthgrad.lab.cli`` imports this first: Ctrl-C should end it quietly from here on.
    from synthgrad_cli import stop_at_once_on_sigint

    stop_at_once_on_sigint()

from synthgrad import errors, feedback, functional, inputs, schedule
from synthgrad._loss_scale import loss
from synthgrad._values import losses
from synthgrad.context import context
from synthgrad.decouple import decouple, recouple
from synthgrad.interface import Interface
from synthgrad.multirate import MultiRate, Node, Ticked
from synthgrad.parameters import feedback_parameters, network_parameters
from synthgrad.probe import Distance, probe
from synthgrad.recurrent import RecurrentInterface
from synthgrad.schedule import FullyUnlocked, Schedule, Sporadic, Unlocked

__version__ = "0.1.0"

__all__ = [
    "Distance",
    "FullyUnlocked",
    "Interface",
    "MultiRate",
    "Node",
    "RecurrentInterface",
    "Schedule",
    "Sporadic",
    "Ticked",
    "Unlocked",
    "context",
    "decouple",
    "errors",
    "feedback",
    "feedback_parameters",
    "functional",
    "inputs",
    "loss",
    "losses",
    "network_parameters",
    "probe",
    "recouple",
    "schedule",
]
