"""A model as data: a static module, its sites, and its tensors, stored separately from the module.

The module only defines the forward pass. The tensors that it computes with are always passed in: ``record`` defines the
data, ``making`` creates it from a module, and ``compute`` runs the module.
"""

from fedloru.net.compute import (
    SINGLE,
    Slots,
    compute_losses,
    compute_outputs,
    constants,
    forward,
    load,
    losses,
    mode,
    unshared,
    use_tensors,
)
from fedloru.net.making import attach, make
from fedloru.net.order import channels_last, prefers_channels_last
from fedloru.net.precision import autocast, emulates_bf16, lowered, precision_problem
from fedloru.net.record import Batch, Metrics, Net, Source, classification_metrics, cross_entropy, images, metrics

__all__ = [
    "SINGLE",
    "Batch",
    "Metrics",
    "Net",
    "Slots",
    "Source",
    "attach",
    "autocast",
    "channels_last",
    "classification_metrics",
    "compute_losses",
    "compute_outputs",
    "constants",
    "cross_entropy",
    "emulates_bf16",
    "forward",
    "images",
    "load",
    "losses",
    "lowered",
    "make",
    "metrics",
    "mode",
    "precision_problem",
    "prefers_channels_last",
    "unshared",
    "use_tensors",
]
