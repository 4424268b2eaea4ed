"""The forward pass of an evaluation: merged weights, images in the faster order, batches that fit the cache.

A low-rank layer computes x Wᵀ + s·(x Aᵀ) Bᵀ in training. An evaluation merges s·BA into W once, where that takes fewer
operations than the second path over all of its examples, and then runs the plain layer. The results differ only by
the rounding of floating-point numbers. Each shortcut is compared with the plain forward pass once for each model, and
not taken if the model computes something else with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fedloru import lowrank, tree
from fedloru.data import Examples, by_length, fetch
from fedloru.footprint import footprint, layer_name, room
from fedloru.lowrank import Site
from fedloru.lowrank.layers import LowRank, without_factors
from fedloru.net import Net, channels_last, compute_outputs, mode, prefers_channels_last, unshared, use_tensors
from fedloru.tree import Params

ROOM = 2**30
"""Bytes for the merged weights of an evaluation, or for all activations of a batch, on a device that is no CUDA GPU."""

_sound: WeakKeyDictionary[nn.Module, dict[str, bool]] = WeakKeyDictionary()
"""Whether a model computes the same with a shortcut, by the name of the shortcut."""


class Inference(NamedTuple):
    """How a model is evaluated: its ``tensors``, some of them merged, and the ``batch_size``."""

    net: Net
    tensors: Params
    batch_size: int
    channels_last: bool

    def fetch(self, data: Examples, rows: Tensor) -> Examples:
        """Return the examples at ``rows`` as one batch."""
        batch = fetch(data, rows)
        return channels_last(batch) if self.channels_last else batch


def prepare(net: Net, tensors: Params, data: Examples, rows: Tensor) -> Inference:
    """Return how ``tensors`` are evaluated on the examples of ``data`` at ``rows``."""
    plain = Inference(net, merged(net, tensors, data, len(rows)), _batch_size(net, tensors, data), False)
    if not prefers_channels_last(net, rows.device):
        return plain
    ordered = plain._replace(channels_last=True)
    return ordered if _is_sound("channels last", net, lambda: _agree(plain, ordered, data, rows[:2])) else plain


@torch.no_grad()
def merged(net: Net, tensors: Params, data: Examples, examples: int) -> Params:
    """Return ``tensors`` with factors merged into weights where that is cheaper for a number of ``examples`` of data.

    A merged site has no factors in the result, so that ``computing`` runs its plain layer. Sites whose weight is
    narrower than their factors are never merged: rounding would lose most of the update.
    """
    paths = footprint(net, tensors, data).paths
    sites = [site for site in net.sites if _is_mergeable(site, tensors)]
    empty = [site for site in sites if not torch.any(tensors[site.b])]
    cheaper = [site for site in sites if examples * paths.get(site.weight, 0) >= tensors[site.weight].numel()]
    worth = _fitting([site for site in cheaper if site not in empty], tensors)
    if worth and not _is_sound("merged", net, lambda: _can_be_merged(net, tensors, data)):
        worth = []
    return tree.omit(lowrank.merge(worth, tensors, tensors), [key for site in (*empty, *worth) for key in site.keys])


def _is_mergeable(site: Site, tensors: Mapping[str, Tensor]) -> bool:
    keys = (site.weight, *site.keys)
    return tensors.keys() >= set(keys) and len({tensors[key].dtype for key in keys}) == 1


def _fitting(sites: list[Site], tensors: Params) -> list[Site]:
    """Return the first of ``sites`` whose merged weights together fit into the memory for them."""
    sizes = accumulate(tensors[site.weight].nbytes for site in sites)
    return [site for site, size in zip(sites, sizes, strict=True) if size <= room(tensors[site.weight].device, ROOM)]


def _batch_size(net: Net, tensors: Params, data: Examples) -> int:
    """Return how many examples of ``data`` are evaluated at once: what fits a CPU's cache, or a GPU's memory."""
    needed, device = footprint(net, tensors, data), next(iter(data.values())).device
    if device.type == "cpu" and not any(_normalizes_batches(layer) for layer in net.model.modules()):
        return needed.fitting
    return max(1, room(device, ROOM) // needed.activations)


def _normalizes_batches(layer: nn.Module) -> bool:
    """Return whether the outputs of a layer in evaluation depend on the other examples of a batch."""
    return isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_mean is None


def _is_sound(shortcut: str, net: Net, decide: Callable[[], bool]) -> bool:
    known = _sound.setdefault(net.model, {})
    if shortcut not in known:
        known[shortcut] = decide()
    return known[shortcut]


def _can_be_merged(net: Net, tensors: Params, data: Examples) -> bool:
    """Return whether merged weights give the same outputs: not if the model reads a weight outside its layer."""
    sites = _fitting([site for site in net.sites if _is_mergeable(site, tensors)], tensors)
    factors = lowrank.init_factors(sites, 0, 0, tensors, "both")
    separate = Inference(net, tensors | factors, 1, False)
    whole = tree.omit(lowrank.merge(sites, tensors, factors), list(factors))
    return _agree(separate, separate._replace(tensors=whole), data, by_length(data)[:1])


@torch.no_grad()
def _agree(plain: Inference, shortcut: Inference, data: Examples, rows: Tensor) -> bool:
    """Return whether both give the same outputs up to rounding; an error of the plain one is not caught."""
    expected = _outputs(plain, data, rows)
    try:
        got = _outputs(shortcut, data, rows)
    except Exception:  # such as a view that needs the channels first
        return False
    pairs = zip(tree_leaves(expected), tree_leaves(got), strict=True)
    return all(_close(x, y) for x, y in pairs if isinstance(x, Tensor) and x.is_floating_point())


def _outputs(inference: Inference, data: Examples, rows: Tensor) -> Any:
    with computing(inference):
        return compute_outputs(inference.net, inference.fetch(data, rows))


def _close(x: Tensor, y: Tensor) -> bool:
    scale = float(x.nan_to_num(0.0, 0.0, 0.0).abs().max()) if x.numel() else 0.0
    return torch.allclose(x, y, rtol=0.0, atol=max(1e-3 * scale, 1e-6), equal_nan=True)


@contextmanager
def computing(inference: Inference) -> Iterator[None]:
    """Let the module compute with the tensors of ``inference`` in evaluation mode inside the context."""
    net, tensors = inference.net, inference.tensors
    layers = [net.model.get_submodule(layer_name(site)) for site in net.sites if site.a not in tensors]
    plain = [layer for layer in layers if isinstance(layer, LowRank)]
    with mode(net, False), without_factors(plain), use_tensors(net, unshared(net, tensors)):
        yield
