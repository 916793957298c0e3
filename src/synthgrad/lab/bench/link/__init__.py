"""Machines that are not there: network namespaces joined by a link that holds each packet."""

from synthgrad.lab.bench.link.measure import bandwidth, round_trip
from synthgrad.lab.bench.link.namespace import enter
from synthgrad.lab.bench.link.network import Loopback, Network, Place, why_not

__all__ = ["Loopback", "Network", "Place", "bandwidth", "enter", "round_trip", "why_not"]
