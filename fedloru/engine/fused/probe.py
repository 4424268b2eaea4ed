"""The probe: a fused forward pass must compute, for two clients, what the plain model computes for each.

A model may mix the examples of a batch (a loss that averages over it, a layer that normalises across it) in ways no
rule can see. So before anything is trained, two clients with different parameters and a padded batch go through the
fused pass and through the plain one, and losses, gradients and
statistics are compared, in float64 where the model allows it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedloru import tree
from fedloru.client import constants
from fedloru.data import Examples
from fedloru.dropout import ClientDropout
from fedloru.engine.fused.fold import Forward
from fedloru.net import Batch, Net, losses, mode
from fedloru.rng import gen
from fedloru.tree import Params

COUNTS = (3, 2)


def probe(net: Net, forward: Forward, stacked: Sequence[str], base: Params, data: Examples) -> str | None:
    """Return what is wrong with ``forward``, or None."""
    double = data["y"].device.type != "mps"
    try:
        return _compare(net, forward, stacked, base, data, torch.float64 if double else None, 1e-6 if double else 1e-3)
    except Exception as error:
        if not double:
            return _sentence(error)
    try:
        return _compare(net, forward, stacked, base, data, None, 1e-3)
    except Exception as error:
        return _sentence(error)


def _sentence(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else 'no message'}"


def _compare(
    net: Net,
    forward: Forward,
    stacked: Sequence[str],
    base: Params,
    data: Examples,
    dtype: torch.dtype | None,
    tolerance: float,
) -> str | None:
    start = {**net.params, **net.buffers, **base}
    clients = [{key: _jitter(start[key], c, key, dtype) for key in stacked} for c in range(len(COUNTS))]
    frozen = _cast({key: value for key, value in base.items() if key not in stacked}, dtype)
    width = max(COUNTS)
    examples = len(data["y"])
    rows = torch.arange(width * len(COUNTS)) % examples
    batch = _cast({key: value[rows] for key, value in data.items()}, dtype)
    together = {key: torch.stack([client[key] for client in clients]) for key in stacked}
    for key in net.trainable | net.factors:
        if key in together:
            together[key].requires_grad_()
    mask = torch.arange(width) < torch.tensor(COUNTS)[:, None]
    mask = mask.to(batch["y"].device)
    with mode(net, True), _dropout(net, batch, COUNTS, width):
        each = forward(together, frozen, batch, len(COUNTS), mask).view(len(COUNTS), width)
        torch.where(mask, each, 0).sum().backward()
    for c, count in enumerate(COUNTS):
        own = {key: value[c * width : c * width + count] for key, value in batch.items()}
        problem = _against_plain(net, clients[c], frozen, own, each[c, :count], together, c, tolerance)
        if problem:
            return problem
    return None


def _against_plain(
    net: Net, client: Params, frozen: Params, batch: Batch, each: Tensor, together: Params, c: int, tolerance: float
) -> str | None:
    grads = _grads(together, c)
    leaves = {key: value.clone().requires_grad_(key in grads) for key, value in client.items()}
    with mode(net, True), _dropout(net, batch, [0] * c + [len(batch["y"])], len(batch["y"]), only=c):
        plain = losses(net, constants(net, frozen) | leaves, batch)
        plain.sum().backward()
    if not _close(each, plain, tolerance):
        return "the losses of two clients differ from those of each alone: something mixes the examples of a batch"
    for key, grad in grads.items():
        expected = leaves[key].grad
        if expected is not None and not _close(grad, expected, tolerance):
            return f"the gradient of {key} differs from that of a client alone"
    for key in sorted(net.statistics & leaves.keys()):
        if not _close(together[key][c], leaves[key], tolerance):
            return f"the statistics {key} of two clients differ from those of each alone"
    return None


def _grads(together: Params, c: int) -> Params:
    return {key: value.grad[c] for key, value in together.items() if value.grad is not None}


def _dropout(net: Net, batch: Batch, counts: Sequence[int], width: int, only: int | None = None) -> ClientDropout:
    """Return the dropout of all clients of the probe, or of the client ``only``."""
    device = batch["y"].device
    clients = [only] if only is not None else list(range(len(counts)))
    draws = [gen(0, "probe", c, device=device) for c in clients]
    return ClientDropout(draws, [counts[c] for c in clients], width)


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
    if not torch.equal(finite, x.isfinite()):  # data that is not finite is no fault of the fused pass
        return False
    x, y = x[finite].detach(), y[finite].detach()
    scale = float(y.abs().max()) if y.numel() else 0.0
    return bool(((x - y).abs() <= tolerance * max(scale, 1e-3)).all())
