"""Stages in processes of their own, on any machines, that do not wait for those after them."""

from synthgrad.distributed.cut import cut
from synthgrad.distributed.launch import Trained, train
from synthgrad.distributed.options import Options
from synthgrad.distributed.place import PeerError
from synthgrad.distributed.schema import SchemaError
from synthgrad.distributed.stage import Stage
from synthgrad.distributed.store import serve

__all__ = ["Options", "PeerError", "SchemaError", "Stage", "Trained", "cut", "serve", "train"]
