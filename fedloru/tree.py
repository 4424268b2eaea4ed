"""Arithmetic on ``Params``, the one data type that model, messages, server and files exchange.

Functions do not modify their inputs, and results keep the dtypes of the tensors they are computed from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

Params = dict[str, Tensor]


def map(f: Callable[..., Tensor], tree: Mapping[str, Tensor], *rest: Mapping[str, Tensor]) -> Params:
    """Apply ``f`` to the tensors that have the same key in all trees."""
    return {key: f(value, *(other[key] for other in rest)) for key, value in tree.items()}


def select(tree: Mapping[str, Tensor], keys: Iterable[str]) -> Params:
    """Return the entries of ``tree`` with ``keys``, in the order of ``keys``."""
    return {key: tree[key] for key in keys}


def omit(tree: Mapping[str, Tensor], keys: Iterable[str]) -> Params:
    """Return ``tree`` without ``keys``."""
    dropped = set(keys)
    return {key: value for key, value in tree.items() if key not in dropped}


def add(x: Mapping[str, Tensor], y: Mapping[str, Tensor]) -> Params:
    """Return x + y."""
    return map(torch.add, x, y)


def sub(x: Mapping[str, Tensor], y: Mapping[str, Tensor]) -> Params:
    """Return x - y."""
    return map(torch.sub, x, y)


def scale(x: Mapping[str, Tensor], factor: float) -> Params:
    """Return factor · x; integer tensors are unchanged."""
    return map(lambda t: t * factor if t.is_floating_point() else t, x)


def norm(x: Mapping[str, Tensor]) -> Tensor:
    """Return the Euclidean norm over all entries, as a 0-d tensor."""
    if not x:
        return torch.zeros(())
    parts = [torch.linalg.vector_norm(t.to(torch.promote_types(t.dtype, torch.float32))) for t in x.values()]
    return torch.sqrt(torch.stack(parts).square().sum())


def weighted_sum(trees: Iterable[Mapping[str, Tensor]], weights: Iterable[float]) -> Params:
    """Return Σ w x, summed in the given order, in float32 or wider."""
    total: Params = {}
    for tree, weight in zip(trees, weights, strict=True):
        if not total:
            total = map(lambda t: t.new_zeros(t.shape, dtype=torch.promote_types(t.dtype, torch.float32)), tree)
        for key, value in tree.items():
            total[key].add_(value, alpha=weight)
    return total


def cast_like(tree: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> Params:
    """Return ``tree`` in the dtypes of ``like``."""
    return {key: value.to(like[key].dtype) for key, value in tree.items()}


def clone(tree: Mapping[str, Tensor]) -> Params:
    """Return a copy that shares no memory with ``tree``."""
    return map(lambda t: t.detach().clone(), tree)


def to(tree: Mapping[str, Tensor], device: str | torch.device) -> Params:
    """Return ``tree`` on ``device``."""
    return map(lambda t: t.to(device), tree)


def upload(t: Tensor, device: torch.device) -> Tensor:
    """Return ``t`` on ``device``; a GPU gets it through pinned memory, so that the CPU need not wait for the copy."""
    return t.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else t.to(device)


def size(tree: Mapping[str, Tensor]) -> int:
    """Return the number of values."""
    return sum(t.numel() for t in tree.values())


def nbytes(tree: Mapping[str, Tensor]) -> int:
    """Return the number of bytes."""
    return sum(t.numel() * t.element_size() for t in tree.values())


def equal(x: Mapping[str, Tensor], y: Mapping[str, Tensor]) -> bool:
    """Return whether two trees have the same keys, dtypes, shapes and bits."""
    return x.keys() == y.keys() and all(
        x[k].dtype == y[k].dtype and x[k].shape == y[k].shape and _bits(x[k]) == _bits(y[k]) for k in x
    )


def digest(tree: Mapping[str, Tensor]) -> str:
    """Return a hash of keys, dtypes, shapes and bits; it does not depend on the order of the keys."""
    h = hashlib.blake2b(digest_size=16)
    for key in sorted(tree):
        t = tree[key]
        h.update(repr((key, str(t.dtype), tuple(t.shape))).encode())
        h.update(_bits(t))
    return h.hexdigest()


def _bits(t: Tensor) -> memoryview:
    return t.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
