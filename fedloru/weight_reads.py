"""Find weights that the forward pass also reads outside of their layers.

A low-rank layer computes with W + s·BA, but a second reader of its weight, such as a decoder that multiplies by the
transposed weight of the encoder, sees W alone. Training would then use another model than the merged one. Likewise, a
forward pass that holds a trained parameter in a plain list always reads its initial value.

The probe runs the model on a few examples twice: unchanged, and with every suspected tensor replaced by other values
everywhere except inside its layer. If a result changes, something else reads the tensor. Both runs do the same
arithmetic, so this works in any precision.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from fedloru import tree
from fedloru.data import Examples, by_length, described, fetch, size
from fedloru.dropout import ClientDropout
from fedloru.errors import ModelError, traced
from fedloru.lowrank import shallow_copy
from fedloru.lowrank.layers import LowRank
from fedloru.net import Batch, Net, compute_outputs, constants, mode, unshared, use_tensors
from fedloru.rng import forked, gen
from fedloru.tree import Params

EXAMPLES = 4
MODES = (False, True)
"""Evaluation and training mode."""
LARGE = 32 * 2**20
"""The number of values above which tensors are replaced by NaN alone, which takes no memory."""
REASON = "the forward pass reads its weight outside of the layer, where it would not see the factors"

Poison = Callable[[str, Tensor], Tensor]
"""(key, tensor) → other values of the same shape and dtype."""


def check_readers(net: Net, data: Examples, composed: Collection[str] = ()) -> None:
    """Check that the forward pass reads trained tensors and adapted weights only as it should.

    ``composed`` are the keys of weights that the method passes to the forward pass whole.

    Raises:
        ModelError: a weight is read outside of its layer, or through a reference that is not registered; or the model
            fails on the examples.
    """
    found = other_readers(net, data)
    if weights := sorted(found & {site.weight for site in net.sites} - set(composed)):
        layers = _layers(net)
        kept = [layer for key, layer in layers.items() if key not in weights]
        raise ModelError(
            f"{', '.join(layers[key] for key in weights)} cannot be adapted: {REASON}. Choose targets without "
            f"{'it' if len(weights) == 1 else 'them'}" + (f", such as targets={kept}" if kept else "")
        )
    if stale := sorted(found - {site.weight for site in net.sites}):
        raise ModelError(
            f"the forward pass reads {', '.join(stale)} through a reference that is not registered, such as a tensor "
            "in a list or a module that a lambda or a hook holds, and never sees the trained values: read the "
            "parameter from the module that forward is called on"
        )


def leave_out(net: Net, data: Examples, attach: Callable[[list[str]], Net]) -> Net:
    """Return ``net``, or if weights have other readers, the net that ``attach`` makes without their layers.

    ``attach`` takes the names of the layers to adapt; the others are added to ``skipped``.

    Raises:
        ModelError: no layer is left.
    """
    layers = _layers(net)
    try:
        found = other_readers(net, data) & layers.keys() if data else set()
    except ModelError:  # the trial of the model reports what fails
        return net
    if not found:
        return net
    skipped = {layers[key]: f"{REASON}; it stays dense" for key in sorted(found)}
    if len(found) == len(layers):
        raise ModelError(f"no layer can be adapted ({', '.join(skipped)}: {REASON}). Choose other targets")
    smaller = attach([layer for key, layer in layers.items() if key not in found])
    return smaller._replace(skipped={**net.skipped, **skipped})


def _layers(net: Net) -> dict[str, str]:
    """Return the name of the layer of every adapted weight."""
    return {site.weight: site.weight.rpartition(".")[0] for site in net.sites}


def other_readers(net: Net, data: Examples) -> set[str]:
    """Return the keys of tensors with another reader: adapted weights, and trained tensors read by a stale reference.

    The model and torch's generators are not changed. The probe runs on a copy, because a run makes copies too, and a
    copy may refer to the model it was made from.

    Raises:
        ModelError: the model fails on the examples, in training and in evaluation mode.
    """
    net = net._replace(model=shallow_copy(net.model, trained=False))
    failures: list[Exception] = []
    keys = sorted(net.trainable | {site.weight for site in net.sites})
    poisons: list[Poison] = [_nan]
    if tree.size(tree.select(net.params, keys)) <= LARGE:
        poisons.append(_noise)
    found: set[str] = set()
    for training in MODES:
        run = partial(_results, net, _examples(net, data), training)
        try:
            with _Foreign() as foreign:
                plain = run({})
        except Exception as error:  # user code may raise anything
            failures.append(error)
            continue
        found |= {key for key in keys if any(_is_original(p, net.params[key]) for p in foreign.seen.values())}
        is_deterministic = _equal(plain, run({}))
        for poison in poisons:
            if poison is _nan or is_deterministic:
                found |= _changing(run, plain, net.params, [key for key in keys if key not in found], poison)
    if len(failures) == len(MODES):
        raise ModelError(
            f"the model fails on {min(EXAMPLES, size(data))} training examples, each with {described(data)}: "
            f"{traced(failures[0])}; fix the model or the examples"
        ) from failures[0]
    return found


def _changing(
    run: Callable[[Params], list[Tensor]], plain: list[Tensor], params: Params, keys: list[str], poison: Poison
) -> set[str]:
    """Return those of ``keys`` whose replacement changes the results, found by halving."""
    if not keys or _same(run, plain, {key: poison(key, params[key]) for key in keys}, poison):
        return set()
    if len(keys) == 1:
        return set(keys)
    middle = len(keys) // 2
    parts = (keys[:middle], keys[middle:])
    return {key for part in parts for key in _changing(run, plain, params, part, poison)}


def _same(run: Callable[[Params], list[Tensor]], plain: list[Tensor], poisoned: Params, poison: Poison) -> bool:
    try:
        results = run(poisoned)
    except Exception:  # only a reader can make a model fail that ran before
        return False
    if poison is _nan:
        return len(plain) == len(results) and all(
            torch.equal(x.isnan(), y.isnan()) for x, y in zip(plain, results, strict=True)
        )
    return _equal(plain, results)


def _results(net: Net, batch: Batch, training: bool, poisoned: Params) -> list[Tensor]:
    """Return the floating-point outputs and the losses, with ``poisoned`` tensors visible to other readers."""
    device = next(iter(batch.values())).device
    tensors = constants(net, unshared(net, net.params | net.buffers))
    layers = [layer for layer in net.model.modules() if isinstance(layer, LowRank)]
    with (
        torch.set_grad_enabled(training),
        mode(net, training),
        forked(device),
        ClientDropout([gen(0, "readers")]),
        _stale(net.model, poisoned),
        use_tensors(net, tensors),
        _private(layers, net, poisoned),
    ):
        torch.manual_seed(0)
        outputs = compute_outputs(net, batch)
        found = [*tree_leaves(outputs), net.losses(outputs, batch)]
    return [value.detach() for value in found if isinstance(value, Tensor) and value.is_floating_point()]


@contextmanager
def _stale(model: nn.Module, poisoned: Params) -> Iterator[None]:
    """Give the module's own parameters, which should never be read, the values ``poisoned``."""
    own = {key: p for key, p in model.named_parameters() if key in poisoned}
    before = {key: p.data for key, p in own.items()}
    try:
        for key, p in own.items():
            p.data = poisoned[key]
        yield
    finally:
        for key, p in own.items():
            p.data = before[key]


@contextmanager
def _private(layers: list[LowRank], net: Net, poisoned: Params) -> Iterator[None]:
    """Let only the low-rank layers themselves compute with their weights; all others see ``poisoned``."""
    weights = {net.model.get_submodule(site.weight.rpartition(".")[0]): site.weight for site in net.sites}
    hidden = [(layer, weights[layer]) for layer in layers if weights[layer] in poisoned]
    try:
        for layer, key in hidden:
            true: Any = layer._parameters["weight"]
            layer._parameters["weight"] = poisoned[key]  # type: ignore[assignment]  # a plain tensor, as in use_tensors
            layer.forward = partial(_forward, layer, true)  # type: ignore[method-assign]
        yield
    finally:
        for layer, _ in hidden:
            vars(layer).pop("forward", None)


def _forward(layer: LowRank, weight: Any, *args: Any, **kwargs: Any) -> Any:
    visible = layer._parameters["weight"]
    layer._parameters["weight"] = weight
    try:
        compute: Any = type(layer).forward
        return compute(layer, *args, **kwargs)
    finally:
        layer._parameters["weight"] = visible


class _Foreign(TorchFunctionMode):
    """Collects the parameters that a forward pass uses; those of the model itself are plain tensors at that time."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[int, nn.Parameter] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.seen |= {id(p): p for p in tree_leaves((args, kwargs)) if isinstance(p, nn.Parameter)}
        return func(*args, **(kwargs or {}))


def _is_original(parameter: nn.Parameter, tensor: Tensor) -> bool:
    """Return whether ``tensor`` was copied from ``parameter``; a frozen copy of it, as of a teacher, is another one."""
    shared = parameter.data_ptr() == tensor.data_ptr()
    same = parameter.shape == tensor.shape and parameter.dtype == tensor.dtype and parameter.device == tensor.device
    return same and (shared or parameter.requires_grad) and torch.equal(parameter, tensor)


def _examples(net: Net, data: Examples) -> Batch:
    """Return a few of the examples, the shortest if they have lengths."""
    return fetch(data, by_length(data, longest_first=False)[: min(EXAMPLES, size(data))])


def _nan(key: str, tensor: Tensor) -> Tensor:
    return torch.full((), torch.nan, dtype=tensor.dtype, device=tensor.device).expand(tensor.shape)


def _noise(key: str, tensor: Tensor) -> Tensor:
    return torch.randn(tensor.shape, generator=gen(0, "readers", key)).to(tensor)


def _equal(x: list[Tensor], y: list[Tensor]) -> bool:
    if [t.shape for t in x] != [t.shape for t in y]:
        return False
    return all(
        torch.allclose(a, b, rtol=1e-4, atol=1e-6 * _scale(a), equal_nan=True) for a, b in zip(x, y, strict=True)
    )


def _scale(values: Tensor) -> float:
    finite = values[values.isfinite()]
    return float(finite.abs().max()) if finite.numel() else 1.0
