"""A model as data: a static module, its sites, and its tensors, stored separately from the module.

The module only defines the forward pass. The tensors that it computes with are always passed in: ``record`` defines the
data, ``making`` creates it from a module, ``compute`` runs the module, and ``loss`` has the losses by name.
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
from fedloru.net.loss import LOSSES, Batch, Loss, by_labels, cross_entropy, outputs_for
from fedloru.net.making import attach, make
from fedloru.net.order import channels_last, prefers_channels_last
from fedloru.net.precision import autocast, emulates_bf16, lowered, precision_problem
from fedloru.net.record import Metrics, Net, Source, classification_metrics, images, metrics

__all__ = [
    "LOSSES",
    "SINGLE",
    "Batch",
    "Loss",
    "Metrics",
    "Net",
    "Slots",
    "Source",
    "attach",
    "autocast",
    "by_labels",
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
    "outputs_for",
    "precision_problem",
    "prefers_channels_last",
    "unshared",
    "use_tensors",
]
