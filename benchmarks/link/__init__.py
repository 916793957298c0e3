"""Machines that are not there: network namespaces joined by a link that holds each packet."""

from benchmarks.link.measure import bandwidth, round_trip
from benchmarks.link.namespace import enter
from benchmarks.link.network import Loopback, Network, Place, why_not

__all__ = ["Loopback", "Network", "Place", "bandwidth", "enter", "round_trip", "why_not"]
