"""Fold: run the model's own forward pass on the batches of m clients at once.

The client axis is folded into the batch axis, (m, b, …) → (m·b, …). Only layers with per-client parameters need to
know about clients: in a copy of the module, their forward passes are replaced by leaves. A layer whose type has no leaf
is vmapped individually over clients. All other operations, including masks and dropout, act per example and run
unchanged. ``vmapped`` has the same interface, and vmaps the whole model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedloru import net as nets
from fedloru.engine.fused.gradients import Outer, Sinks
from fedloru.engine.fused.leaf import Leaf, Mask
from fedloru.engine.fused.leaves import LEAVES, linear, lowrank_linear
from fedloru.engine.fused.local_weight import LocalWeight
from fedloru.errors import ModelError
from fedloru.lowrank import shallow_copy
from fedloru.lowrank.layers import LowRank
from fedloru.net import Batch, Net, compute_losses, constants, use_tensors
from fedloru.tree import Params

LayerPath = Literal["auto", "activation", "weight"]
Stacked = Mapping[str, Tensor | LocalWeight]
"""The tensors of m clients, (m, *shape), by key."""


class Forward(NamedTuple):
    """A forward pass of m clients at once.

    Attributes:
        run: (stacked, base, batch, m, mask, sinks) → losses (m·b,); ``mask`` marks valid rows. The backward pass adds
            gradients of local weights, and of other stacked tensors that are leaves, to ``sinks``.
        rows: the number of rows per example that each linear layer has had as its input, by the key of its weight; only
            for weights that no other layer uses.
    """

    run: Callable[[Stacked, Params, Batch, int, Mask | None, Sinks], Tensor]
    rows: dict[str, int]


class _Call:
    """The arguments of the current forward pass, which the leaves read."""

    stacked: Stacked
    base: Params | None = None
    clients: int
    rows: int
    mask: Mask | None
    sinks: Sinks

    def __init__(self) -> None:
        self.linear_rows: dict[str, int] = {}


class _Tensors:
    """A leaf's view of the current call; names are those of the leaf's module."""

    def __init__(self, call: _Call, layer: nn.Module, keys: dict[str, str], path: LayerPath) -> None:
        self.call, self.layer, self.keys, self.path = call, layer, keys, path

    @property
    def clients(self) -> int:
        return self.call.clients

    @property
    def mask(self) -> Mask | None:
        return self.call.mask

    @property
    def rows(self) -> int:
        return self.call.rows

    def get(self, name: str) -> tuple[Tensor | None, bool]:
        stacked = self._stacked(name)
        if stacked is not None:
            # With one client, a stacked parameter can be used as a shared one, and most plain layers are faster.
            single = self.call.clients == 1 and not isinstance(self.layer, LowRank | nn.Linear)
            return (stacked.squeeze(0), False) if single else (stacked, True)
        tensor: Tensor | None = getattr(self.layer, name, None)  # RMSNorm has no bias
        return tensor, False

    def local(self, name: str, rows: int) -> LocalWeight | None:
        key = self.keys[name]
        if key in self.call.linear_rows:
            self.call.linear_rows[key] = max(self.call.linear_rows[key], -(-rows // self.call.rows))
        value = self.call.stacked.get(key)
        return value if isinstance(value, LocalWeight) else None

    def sink(self, name: str) -> list[Outer] | None:
        key = self.keys.get(name, "")
        value = self.call.stacked.get(key)
        collects = isinstance(value, LocalWeight) or (value is not None and value.is_leaf)
        return self.call.sinks.setdefault(key, []) if collects else None

    def _stacked(self, name: str) -> Tensor | None:
        value = self.call.stacked.get(self.keys.get(name, ""))
        assert not isinstance(value, LocalWeight)
        return value

    def weight_space(self, rows: int, o: int, i: int, r: int) -> bool:
        """Compare FLOPs per row, in units of one dense product: 2 + 3r(i+o)/(io) and 3 + 4r/rows."""
        if self.path != "auto":
            return self.path == "weight"
        return 3 * r * (i + o) / (i * o) > 1 + 4 * r / rows


def fold(net: Net, stacked: frozenset[str], path: LayerPath = "auto", *, channels_last: bool = False) -> Forward:
    """Return the folded forward pass of a model whose tensors ``stacked`` differ between clients.

    With ``channels_last``, images enter it with their channels last in memory, and convolutions keep that order.
    """
    call = _Call()
    model = shallow_copy(net.model, trained=False).train()
    keys = _keys(model)
    unstacked = _unstacked(model, "", keys, stacked)
    vmapped_prefixes: set[str] = set()
    for name, layer in model.named_modules():
        prefix = f"{name}." if name else ""
        own = {part: keys[prefix + part] for part in (*layer._parameters, *layer._buffers) if prefix + part in keys}
        inside = any(name.startswith(parent) for parent in vmapped_prefixes)
        if inside or stacked.isdisjoint(own.values()):
            continue
        leaf = LEAVES.get(type(layer))
        if leaf is None:
            vmapped_prefixes.add(prefix)
            template = shallow_copy(layer, trained=False)
            unstacked += _unstacked(template, prefix, keys, stacked)
            below = {key.removeprefix(prefix): first for key, first in keys.items() if key.startswith(prefix)}
            leaf = partial(_vmapped_leaf, template, {part: key for part, key in below.items() if key in stacked})
        layer.forward = partial(_run_leaf, leaf, _Tensors(call, layer, own, path), layer)
        weight = own.get("weight", "")  # a computed weight, as of weight_norm, is no parameter
        if leaf in (linear, lowrank_linear) and weight in stacked and list(keys.values()).count(weight) == 1:
            call.linear_rows[weight] = 0
    frozen = {key: p.requires_grad_(False) for key, p in model.named_parameters() if key not in stacked - net.factors}
    folded = net._replace(model=model)

    def forward(stacked: Stacked, base: Params, batch: Batch, m: int, mask: Mask | None, sinks: Sinks) -> Tensor:
        if call.base is not base:
            call.base = base
            for key in frozen.keys() & base.keys():
                frozen[key].data = base[key]
        call.stacked, call.clients, call.mask, call.sinks = stacked, m, mask, sinks
        call.rows = len(next(iter(batch.values())))
        if channels_last:
            batch = nets.channels_last(batch)
        with _check_unchanged(unstacked):
            return compute_losses(folded, batch)

    return Forward(forward, call.linear_rows)


def _keys(model: nn.Module) -> dict[str, str]:
    """Map every name of a tensor to its key: the first of its names, by which tied weights are looked up."""
    first: dict[Tensor, str] = {}
    every = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    return {name: first.setdefault(tensor, name) for name, tensor in every}


_Slot = tuple[str, dict[str, Any], str]
"""The key of a tensor, the parameter or buffer table of its module, and its name in that table."""


def _unstacked(model: nn.Module, prefix: str, keys: dict[str, str], stacked: frozenset[str]) -> list[_Slot]:
    slots = [
        (keys[f"{prefix}{layer}.{name}" if layer else prefix + name], table, name)
        for layer, module in model.named_modules()
        for table in (module._parameters, module._buffers)
        for name, tensor in table.items()
        if tensor is not None
    ]
    return [slot for slot in slots if slot[0] not in stacked]


@contextmanager
def _check_unchanged(slots: Sequence[_Slot]) -> Iterator[None]:
    """Raise ``ModelError`` if the forward pass modifies or replaces a tensor that all clients share."""
    before = [(table[name], table[name]._version) for _, table, name in slots]
    yield
    for (key, table, name), (tensor, version) in zip(slots, before, strict=True):
        _raise_if_changed(table[name] is not tensor or tensor._version != version, key)


def _raise_if_changed(changed: bool, key: str) -> None:
    if changed:
        raise ModelError(f"the forward pass changes {key}, which is not stacked, so all clients would share the change")


def _run_leaf(leaf: Leaf, tensors: _Tensors, layer: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return leaf(tensors, layer, *args, **kwargs)


def _vmapped_leaf(
    template: nn.Module, keys: dict[str, str], t: _Tensors, layer: nn.Module, *args: Any, **kwargs: Any
) -> Any:
    """Run one layer and its submodules under vmap over clients; ``keys`` maps names to keys of stacked tensors."""
    m = t.clients
    own = {name: t.call.stacked[key] for name, key in keys.items()}
    shared = {key: p for key, p in layer.named_parameters() if key not in own}
    split = torch.utils._pytree.tree_map(lambda v: _split(v, m), (args, kwargs))
    axes = torch.utils._pytree.tree_map(lambda v: 0 if isinstance(v, Tensor) and v.ndim else None, split)

    def one(params: Any, inputs: Any) -> Any:
        return functional_call(template, shared | params, inputs[0], inputs[1])

    out = torch.func.vmap(one, in_dims=(0, axes), randomness="different")(own, split)
    return torch.utils._pytree.tree_map(lambda v: v.flatten(0, 1), out)


def _split(value: Any, m: int) -> Any:
    if not isinstance(value, Tensor) or not value.ndim:
        return value
    if value.shape[0] % m:
        raise ModelError(
            f"an argument of shape {tuple(value.shape)} cannot be split into {m} clients along its first axis"
        )
    return value.unflatten(0, (m, -1))


def vmapped(net: Net) -> Forward:
    """Return the forward pass of the whole model under ``torch.func.vmap`` over clients."""

    def forward(stacked: Stacked, base: Params, batch: Batch, m: int, mask: Mask | None, sinks: Sinks) -> Tensor:
        if mask is not None and net.statistics:
            raise ModelError("BatchNorm under vmap cannot distinguish padding from examples")
        own = {key: value for key, value in stacked.items() if isinstance(value, Tensor)}
        shared = {key: value for key, value in constants(net, base).items() if key not in own}
        versions = {key: value._version for key, value in shared.items()}

        def one(params: Params, batch: Batch) -> Tensor:
            client_tensors = shared | params
            with use_tensors(net, client_tensors):
                each = compute_losses(net, batch)
            for key, value in shared.items():
                _raise_if_changed(client_tensors[key] is not value or value._version != versions[key], key)
            return each

        split = {key: value.unflatten(0, (m, -1)) for key, value in batch.items()}
        return torch.func.vmap(one, randomness="different")(own, split).flatten()

    return Forward(forward, {})
