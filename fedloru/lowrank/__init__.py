"""Low-rank layers and the algebra of their factors: sites, attaching, merging, stacking and truncation."""

from fedloru.lowrank.algebra import concatenate, delta, init_factors, matrices, merge, signs_of, stack, truncate
from fedloru.lowrank.attach import Attached, attach, detach, sites
from fedloru.lowrank.bases import (
    adapted_keys,
    advance,
    alternates,
    drawn_basis,
    factor_shape,
    fixed_key,
    orthonormal,
    restarted,
    sent_part,
    trained_key,
    turned,
)
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
    "adapted_keys",
    "advance",
    "alternates",
    "attach",
    "combine",
    "concatenate",
    "delta",
    "detach",
    "drawn_basis",
    "factor_shape",
    "fixed_key",
    "increment",
    "init_factors",
    "matrices",
    "merge",
    "orthonormal",
    "restarted",
    "sent_part",
    "shallow_copy",
    "signs_of",
    "sites",
    "stack",
    "trained_key",
    "truncate",
    "truncate_increment",
    "turned",
]
