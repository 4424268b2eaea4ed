"""The probe: checks that a fused forward pass computes for two clients what the plain model computes for each.

A model may mix the examples of a batch (such as a loss that averages over the batch, or a layer that normalizes across
it) in ways that static rules cannot detect. Before training, two clients with different parameters and a padded batch
are therefore run through the fused and the plain pass, and their losses, gradients and statistics are compared, in
float64 if the model supports it. For text, short examples of different lengths are used.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor

from fedloru import tree
from fedloru.data import Examples, by_length, fetch, size
from fedloru.dropout import Masks
from fedloru.engine.fused.fold import Forward
from fedloru.engine.fused.gradients import Sinks, collected, dense
from fedloru.engine.fused.leaf import Mask
from fedloru.engine.fused.local_weight import LocalWeight
from fedloru.errors import sentence
from fedloru.net import Batch, Net, autocast, compute_losses, constants, lowered, mode, use_tensors
from fedloru.recipe import Precision
from fedloru.rng import forked, gen
from fedloru.tree import Params

COUNTS = (3, 2)
PADDING = 8
"""The number of tokens by which texts are padded in the fused pass alone, because a chunk pads to its longest text."""
LARGE = 32 * 2**20
"""The number of base values above which a model is probed in float32, to three digits, instead of float64, to six."""


class _Found(NamedTuple):
    """Results of the fused pass: losses (m, b), gradients (m, …), and the state (m, …) with its statistics."""

    losses: Tensor
    gradients: Params
    state: Params


def probe(
    net: Net,
    forward: Forward,
    stacked: Params,
    base: Params,
    data: Examples,
    precision: Precision = "full",
    *,
    wide: bool = True,
    local: Collection[str] = (),
) -> str | None:
    """Return why ``forward`` is not equivalent to the plain forward pass, or does not run in ``precision``; else None.

    ``stacked`` are the tensors with which a client starts; those of ``local`` are passed as local weights. The passes
    are compared in float64 if ``wide`` is set and the model supports it, and else in the model's own dtypes. In bf16,
    results depend on the order of roundings, so only failures are detected there.
    """
    device = next(iter(data.values())).device
    attempts: list[tuple[torch.dtype | None, float]] = [(torch.float64, 1e-6), (None, 1e-3)]
    if not wide:
        attempts = attempts[1:]
    elif tree.size(base) > LARGE:
        attempts = [(torch.float32, 1e-3)]
    for dtype, tolerance in attempts[wide and device.type == "mps" :]:
        try:
            with forked(device):
                problem = _compare(net, forward, stacked, base, data, dtype, tolerance, local=local)
                break
        except Exception as error:  # user code may raise anything
            problem = sentence(error)
    if problem is None and precision != "full":
        try:
            with forked(device):
                return _compare(net, forward, stacked, base, data, None, math.inf, precision)
        except Exception as error:  # user code may raise anything
            return f"in {precision}: {sentence(error)}"
    return problem


def _compare(
    net: Net,
    forward: Forward,
    stacked: Params,
    base: Params,
    data: Examples,
    dtype: torch.dtype | None,
    tolerance: float,
    precision: Precision = "full",
    local: Collection[str] = (),
) -> str | None:
    start = {**net.params, **net.buffers, **base, **stacked}
    clients = [
        {key: _jitter(start[key], c if key not in local else 0, key, dtype) for key in stacked}
        for c in range(len(COUNTS))
    ]
    frozen = tree.clone(_cast({key: value for key, value in base.items() if key not in stacked}, dtype))
    width = max(COUNTS)
    rows = _of_many_lengths(data)
    rows = rows[torch.arange(width * len(COUNTS)) % len(rows)]
    longest = int(data["length"][rows].max()) + PADDING if "length" in data else None
    batch = _cast(fetch(data, rows, longest=longest), dtype)
    state = {key: torch.stack([client[key] for client in clients]) for key in stacked if key not in local}
    weights = {key: LocalWeight(clients[0][key], len(COUNTS), 0, 1.0, 0.0) for key in local}
    leaves = {key: state[key].requires_grad_() for key in state if key in net.trainable | net.factors}
    mask = torch.arange(width) < torch.tensor(COUNTS)[:, None]
    mask = mask.to(rows.device)
    padding = Mask(mask, min(COUNTS))
    masks, sinks = _masks(*range(len(COUNTS))), Sinks()
    with mode(net, True), masks.step(len(COUNTS)):
        with autocast(precision, rows.device):
            losses = forward.run(
                {**state, **weights}, lowered(net, frozen, precision), batch, len(COUNTS), padding, sinks
            )
        losses = losses.view(len(COUNTS), width)
        for outers in sinks.values():
            outers.clear()  # those of a backward pass inside the model
        anchors = {key: weight.anchor for key, weight in weights.items()}
        gradients = masks.gradients(torch.where(mask, losses, 0).sum(), leaves | anchors)
    reached = {key: dense(gradient) for key, gradient in collected(gradients, sinks).items()}
    zeros = {key: torch.zeros_like(torch.stack([client[key] for client in clients])) for key in leaves | anchors}
    found = _Found(losses, zeros | reached, state)
    for c, count in enumerate(COUNTS):
        own_batch = _cast(fetch(data, rows[c * width : c * width + count]), dtype)
        problem = _compare_with_plain(net, clients[c], frozen, own_batch, found, c, tolerance)
        if problem:
            return problem
    return None


def _of_many_lengths(data: Examples) -> Tensor:
    """Return the rows of ``data``: first one text of each length, from the shortest, to detect effects of padding."""
    rows = by_length(data, longest_first=False)
    if "length" not in data:
        return rows
    lengths = data["length"][rows]
    is_first = torch.cat([lengths.new_ones(1, dtype=torch.bool), lengths[1:] != lengths[:-1]])
    return torch.cat([rows[is_first], rows[~is_first]])


def _compare_with_plain(
    net: Net, client: Params, frozen: Params, batch: Batch, found: _Found, c: int, tolerance: float
) -> str | None:
    leaves = {key: value.clone().requires_grad_(key in found.gradients) for key, value in client.items()}
    tensors, count = constants(net, frozen) | leaves, size(batch)
    masks = _masks(c)
    with mode(net, True), masks.step(1), use_tensors(net, tensors):
        plain = compute_losses(net, batch)
        masks.backward(plain.sum())
    if not plain.isfinite().any():
        raise ValueError("no loss of the probe is finite, so the fused pass cannot be compared with the plain one")
    if not _close(found.losses[c, :count], plain, tolerance):
        return (
            "the losses of two clients differ from those of each client alone: the model mixes the examples of a "
            "batch, or its results depend on padding"
        )
    for key, gradient in found.gradients.items():
        expected = leaves[key].grad
        if not _close(gradient[c], torch.zeros_like(leaves[key]) if expected is None else expected, tolerance):
            return f"the gradient of {key} differs from that of each client alone"
    for key in sorted(net.statistics & leaves.keys()):
        if not _close(found.state[key][c], tensors[key], tolerance):
            return f"the statistics {key} of two clients differ from those of each client alone"
    return None


def _masks(*clients: int) -> Masks:
    return Masks([gen(0, "probe", c) for c in clients])


def _jitter(value: Tensor, c: int, key: str, dtype: torch.dtype | None) -> Tensor:
    noise = torch.randn(value.shape, generator=gen(c, "probe", key)).to(value.device)
    jittered = value + 0.1 * noise.to(value.dtype)
    return _cast({"": jittered.abs() if "running_var" in key else jittered}, dtype)[""]


def _cast(values: Params, dtype: torch.dtype | None) -> Params:
    if dtype is None:
        return dict(values)
    return tree.map(lambda t: t.to(dtype) if t.is_floating_point() else t, values)


def _close(x: Tensor, y: Tensor, tolerance: float) -> bool:
    finite = y.isfinite()
    if not torch.equal(finite, x.isfinite()):  # data that is not finite is not an error of the fused pass
        return False
    x, y = x[finite].detach(), y[finite].detach()
    scale = float(y.abs().max()) if y.numel() else 0.0
    return bool(((x - y).abs() <= tolerance * max(scale, 1e-3)).all())
