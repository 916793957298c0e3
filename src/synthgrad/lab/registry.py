"""All recipes, by name."""

from __future__ import annotations

from collections.abc import Mapping

from synthgrad.lab.multinetwork import MULTI_NETWORK
from synthgrad.lab.recipes import RECIPES
from synthgrad.lab.runnable import Runnable
from synthgrad.lab.sequences import SEQUENCE_RECIPES

ALL: Mapping[str, Runnable] = {
    **RECIPES,
    **SEQUENCE_RECIPES,
    MULTI_NETWORK.name: MULTI_NETWORK,
}
