"""Stages in processes of their own, on any machines, that do not wait for those after them.

To train in stages: :func:`train`, or :class:`Stage` in processes that you start, with
:class:`Options`, :func:`cut` and :func:`serve`. For programs that start stages themselves:

- :class:`Supervisor` keeps a child process for each :class:`Command`, starts it again when it dies
  and raises :class:`ChildError` where that is of no use; :class:`Supervised` is the child's side,
  which ends with :data:`MISTAKE` where the same would only come again;
- :func:`checkpoints` are the files that show that a stage has got further, and
  :func:`time_to_stop` is how long one may take to stop;
- :func:`address`, :func:`probe` and :func:`check_interface` look at what a user gave for the store
  and the network;
- :class:`Learner` is what a stage computes, without any network.
"""

from synthgrad.distributed._cut import cut
from synthgrad.distributed._learner import Learner
from synthgrad.distributed._place import PeerError
from synthgrad.distributed._supervisor import MISTAKE, ChildError, Command, Supervised, Supervisor
from synthgrad.distributed.launch import Trained, checkpoints, train
from synthgrad.distributed.options import Options, time_to_stop
from synthgrad.distributed.protocol import SchemaError
from synthgrad.distributed.stage import Stage
from synthgrad.distributed.transport import address, check_interface, probe, serve

__all__ = [
    "MISTAKE",
    "ChildError",
    "Command",
    "Learner",
    "Options",
    "PeerError",
    "SchemaError",
    "Stage",
    "Supervised",
    "Supervisor",
    "Trained",
    "address",
    "check_interface",
    "checkpoints",
    "cut",
    "probe",
    "serve",
    "time_to_stop",
    "train",
]
