"""What a model needs for one example, measured once for each model and shape of examples."""

from __future__ import annotations

from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fedloru.data import Examples, by_length, fetch
from fedloru.lowrank import Site
from fedloru.lowrank.layers import LowRankEmbedding
from fedloru.net import Net, forward, mode, unshared
from fedloru.tree import Params

CACHE = 8 * 2**20
"""Bytes for the inputs and outputs of any one layer: a larger batch spills from the last cache of usual processors."""


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
    weights = {id(net.model.get_submodule(layer_name(site))): site for site in net.sites}
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
    fits = max(1, min(fitting, default=1))
    return Footprint(max(1, sum(outputs) + 2 * whole), fits, paths, sum(products))


def layer_name(site: Site) -> str:
    """Return the name of the layer of a site."""
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


def room(device: torch.device, otherwise: int) -> int:
    """Return the budget in bytes for a working set: an eighth of a CUDA GPU's memory, or ``otherwise``."""
    return torch.cuda.mem_get_info(device)[1] // 8 if device.type == "cuda" else otherwise
