"""Low-rank layers and their algebra: what a site is, how factors merge, stack and truncate, and where they attach."""

from fedloru.lowrank.algebra import concatenate, delta, fresh, matrices, merge, stack, truncate
from fedloru.lowrank.attach import Attached, attach, detach, sites
from fedloru.lowrank.copying import shallow_copy
from fedloru.lowrank.increments import Increment, increment, shortened, together
from fedloru.lowrank.layers import LowRankConv2d, LowRankEmbedding, LowRankLinear
from fedloru.lowrank.site import Site

__all__ = [
    "Attached",
    "Increment",
    "LowRankConv2d",
    "LowRankEmbedding",
    "LowRankLinear",
    "Site",
    "attach",
    "concatenate",
    "delta",
    "detach",
    "fresh",
    "increment",
    "matrices",
    "merge",
    "shallow_copy",
    "shortened",
    "sites",
    "stack",
    "together",
    "truncate",
]
