"""What comes back by each method, in a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from synthgrad.lab.report.groups import Group

_BETWEEN_LAYERS = {
    "backprop": "the true error comes back",
    "none": "no error comes back between layers",
    "stale": "an average of past errors",
    "dni": "a synthetic gradient",
    "cdni": "a synthetic gradient from a model that also sees the label",
}
_OVER_TIME = {
    "bptt": "the true error comes back, from within the unroll",
    "dni": "a synthetic gradient comes back over the end of the unroll",
    "dni-aux": "a synthetic gradient, which the network also learns to foresee an unroll ahead",
}
_BETWEEN_NETWORKS = {
    "backprop": "the true error comes back from network B to A, which wait for each other",
    "none": "no error comes back from B to A",
    "dni": "a synthetic gradient comes back to A, from a model that sees its message to B",
    "cdni": "the same from a model that also sees the count of threes in the last T digits",
}


def meanings(groups: Sequence[Group]) -> Mapping[str, str]:
    """What the methods of one recipe's groups mean there, in the order of the groups."""
    first = groups[0]
    if first.recipe == "multi-network":
        known = _BETWEEN_NETWORKS
    elif first.layers is None:
        known = _OVER_TIME
    else:
        known = _BETWEEN_LAYERS
    return {group.method: known[group.method] for group in groups if group.method in known}
