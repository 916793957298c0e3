"""Two networks that tick at different rates and talk to each other (2.3, 3.2, D.3)."""

from synthgrad.lab.multinetwork.config import MultiNetworkConfig
from synthgrad.lab.multinetwork.recipe import MULTI_NETWORK, MultiNetworkRecipe

__all__ = ["MULTI_NETWORK", "MultiNetworkConfig", "MultiNetworkRecipe"]
