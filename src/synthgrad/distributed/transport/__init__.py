"""What carries frames between stages (:mod:`.base` is the contract): gloo, for now."""

from synthgrad.distributed.transport._gloo import Gloo
from synthgrad.distributed.transport._gloo_store import address, check_interface, probe, serve

__all__ = ["Gloo", "address", "check_interface", "probe", "serve"]
