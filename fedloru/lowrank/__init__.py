"""Low-rank layers and the algebra of their factors: sites, attaching, merging, stacking and truncation."""

from fedloru.lowrank.algebra import concatenate, delta, init_factors, matrices, merge, signs_of, stack, truncate
from fedloru.lowrank.attach import Attached, attach, detach, sites
from fedloru.lowrank.copying import shallow_copy
from fedloru.lowrank.increments import Increment, combine, increment, truncate_increment
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
    "combine",
    "concatenate",
    "delta",
    "detach",
    "increment",
    "init_factors",
    "matrices",
    "merge",
    "shallow_copy",
    "signs_of",
    "sites",
    "stack",
    "truncate",
    "truncate_increment",
]
