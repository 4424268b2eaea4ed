"""The forward pass of an evaluation: merged weights, convolutions that suit the processor, batches that fit its cache.

A low-rank layer computes x Wᵀ + s·(x Aᵀ) Bᵀ in training. An evaluation merges s·BA into W once, where that takes fewer
operations than the second path over all of its examples, and then runs the plain layer. The results differ only by
the rounding of floating-point numbers.

What the model needs for one example is measured once for each model and shape of examples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fedloru.data import Examples, by_length, fetch
from fedloru.lowrank import Site, matrices
from fedloru.lowrank.layers import LowRank, LowRankEmbedding, without_factors
from fedloru.net import Net, compute_outputs, forward, mode, unshared, use_tensors
from fedloru.rng import gen
from fedloru.tree import Params

CACHE = 8 * 2**20
"""Bytes for the inputs and outputs of any one layer: a larger batch spills from the last cache of usual processors."""

ROOM = 2**30
"""Bytes for the merged weights of an evaluation, or for all activations of a batch, on a device that is no CUDA GPU."""


class Footprint(NamedTuple):
    """What the forward pass of one example, the longest, needs.

    Attributes:
        activations: bytes of the outputs of all layers; the output of the model itself counts three times, for its
            log-probabilities and its gradient. For a language model, whose output spans the vocabulary, this is the
            largest part.
        fitting: number of examples with which the inputs and outputs of every layer fit into the cache, or take no more
            bytes than the layer's own parameters, which pass through the cache once per batch.
        paths: multiplications per rank of the second path of every low-rank layer, by the key of its weight.
        products: multiplications of all layers with their weights.
    """

    activations: int
    fitting: int
    paths: dict[str, int]
    products: int


_footprints: WeakKeyDictionary[nn.Module, dict[tuple[Any, ...], Footprint]] = WeakKeyDictionary()


def footprint(net: Net, tensors: Params, data: Examples) -> Footprint:
    """Return the footprint of ``net`` on the longest example of ``data``."""
    longest = int(data["length"].max()) if "length" in data else 0
    shapes = tuple((key, value.shape[1:], value.dtype, value.device) for key, value in data.items())
    known = _footprints.setdefault(net.model, {})
    key = (longest, *shapes)
    if key not in known:
        known[key] = _measure(net, tensors, fetch(data, by_length(data)[:1]))
    return known[key]


def activation_bytes(net: Net, tensors: Params, data: Examples) -> int:
    """Return the total size in bytes of the outputs of all layers for one example; see ``Footprint``."""
    return footprint(net, tensors, data).activations


@torch.no_grad()
def _measure(net: Net, tensors: Params, example: Examples) -> Footprint:
    weights = {id(net.model.get_submodule(_layer_name(site))): site for site in net.sites}
    outputs: list[int] = []
    fitting: list[int] = []
    paths: dict[str, int] = {}
    products: list[int] = []

    def count(layer: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            read = sum(t.nbytes for t in tree_leaves(inputs) if isinstance(t, Tensor))
            own = sum(p.nbytes for p in layer.parameters())
            outputs.append(output.nbytes)
            fitting.append(max(CACHE, own) // max(1, read + output.nbytes))
            products.append(_products(layer, output))
            if site := weights.get(id(layer)):
                paths[site.weight] = paths.get(site.weight, 0) + _path(site, layer, output)

    hooks = [m.register_forward_hook(count) for m in net.model.modules() if not any(m.children())]
    try:
        with mode(net, False):
            found = forward(net, unshared(net, tensors), example)
    finally:
        for hook in hooks:
            hook.remove()
    whole = sum(t.nbytes for t in tree_leaves(found) if isinstance(t, Tensor))
    if not _can_be_merged(net, tensors, example):
        paths = {}
    fits = max(1, min(fitting, default=1))
    return Footprint(max(1, sum(outputs) + 2 * whole), fits, paths, sum(products))


def _can_be_merged(net: Net, tensors: Params, example: Examples) -> bool:
    """Return whether merged weights give the same outputs: not if the model reads a weight outside its layer."""
    sites, left = [], room(next(iter(example.values())).device, ROOM)
    for site in net.sites:
        if _mergeable(site, tensors) and tensors[site.weight].nbytes <= left:
            sites.append(site)
            left -= tensors[site.weight].nbytes
    if not sites:
        return True
    factors = {key: _noise(tensors[key], key) for site in sites for key in site.keys}
    separate, whole = tensors | factors, tensors | factors
    for site in sites:
        a, b = matrices(site, factors)
        whole[site.weight] = torch.addmm(whole[site.weight].flatten(1), b, a, alpha=site.scale).view(site.shape)
        del whole[site.a], whole[site.b]
    results = []
    for each in (separate, whole):
        with computing(net, each):
            results.append(compute_outputs(net, dict(example)))
    return agree(*results)


def _noise(like: Tensor, key: str) -> Tensor:
    return 0.1 * torch.randn(like.shape, generator=gen(0, "merged", key)).to(like)


def agree(one: Any, other: Any) -> bool:
    """Return whether the outputs of two forward passes are the same up to rounding."""
    pairs = zip(tree_leaves(one), tree_leaves(other), strict=True)
    return all(_close(x, y) for x, y in pairs if isinstance(x, Tensor) and x.is_floating_point())


def _close(x: Tensor, y: Tensor) -> bool:
    scale = float(x.nan_to_num(0.0, 0.0, 0.0).abs().max()) if x.numel() else 0.0
    return torch.allclose(x, y, rtol=0.0, atol=max(1e-3 * scale, 1e-6), equal_nan=True)


def _layer_name(site: Site) -> str:
    return site.weight.rpartition(".")[0]


def _path(site: Site, layer: nn.Module, output: Tensor) -> int:
    """Return the multiplications per rank of x Aᵀ and of the product with B; an embedding looks up the rows of B."""
    if isinstance(layer, LowRankEmbedding):
        return output.numel()
    return output.numel() // site.o * (site.o + site.i)


def _products(layer: nn.Module, output: Tensor) -> int:
    """Return the multiplications with the weight (o, …) of a layer; an embedding has none."""
    weight = layer._parameters.get("weight")
    if weight is None or weight.ndim < 2 or isinstance(layer, nn.Embedding):
        return 0
    return output.numel() // len(weight) * weight.numel()


def batch_limit(net: Net, tensors: Params, data: Examples) -> int:
    """Return how many examples of ``data`` are evaluated at once: what fits a CPU's cache, or a GPU's memory."""
    needed, device = footprint(net, tensors, data), next(iter(data.values())).device
    if device.type == "cpu" and not any(_normalizes_batches(layer) for layer in net.model.modules()):
        return needed.fitting
    return max(1, room(device, ROOM) // needed.activations)


def _normalizes_batches(layer: nn.Module) -> bool:
    """Return whether the outputs of a layer in evaluation depend on the other examples of a batch."""
    return isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_mean is None


def room(device: torch.device, otherwise: int) -> int:
    """Return the budget in bytes for a working set: an eighth of a CUDA GPU's memory, or ``otherwise``."""
    return torch.cuda.mem_get_info(device)[1] // 8 if device.type == "cuda" else otherwise


@torch.no_grad()
def merged(net: Net, tensors: Params, data: Examples, examples: int) -> Params:
    """Return ``tensors`` with factors merged into weights where that is cheaper for a number of ``examples`` of data.

    A merged site has no factors in the result, so that ``computing`` runs its plain layer. Sites whose weight is
    narrower than their factors are never merged: rounding would lose most of the update.
    """
    paths = footprint(net, tensors, data).paths
    whole, left = dict(tensors), room(next(iter(data.values())).device, ROOM)
    for site in net.sites:
        if not _mergeable(site, whole):
            continue
        weight, (a, b) = whole[site.weight], matrices(site, whole)
        if torch.any(b):
            if examples * paths.get(site.weight, 0) < weight.numel() or weight.nbytes > left:
                continue
            left -= weight.nbytes
            whole[site.weight] = torch.addmm(weight.flatten(1), b, a, alpha=site.scale).view(site.shape)
        del whole[site.a], whole[site.b]
    return whole


def _mergeable(site: Site, tensors: Mapping[str, Tensor]) -> bool:
    keys = (site.weight, *site.keys)
    return tensors.keys() >= set(keys) and len({tensors[key].dtype for key in keys}) == 1


def channels_last(net: Net, tensors: Params) -> Params:
    """Return the weights of the convolutions, with their channels last in memory, if that is faster on their device."""
    if not torch.backends.mkldnn.is_available():
        return {}
    keys = [f"{name}.weight" if name else "weight" for name, m in net.model.named_modules() if isinstance(m, nn.Conv2d)]
    weights = {key: tensors[key] for key in keys if key in tensors}
    return {
        key: weight.clone(memory_format=torch.channels_last)  # also where there is only one channel
        for key, weight in weights.items()
        if weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.bfloat16)
    }


@contextmanager
def computing(net: Net, tensors: Params) -> Iterator[None]:
    """Let the module compute with ``tensors`` in evaluation mode inside the context; see ``merged``."""
    layers = [net.model.get_submodule(_layer_name(site)) for site in net.sites if site.a not in tensors]
    plain = [layer for layer in layers if isinstance(layer, LowRank)]
    with mode(net, False), without_factors(plain), use_tensors(net, unshared(net, tensors)):
        yield
