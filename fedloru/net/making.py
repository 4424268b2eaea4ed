"""Make a ``Net`` from a module, with or without low-rank factors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fedloru import lowrank
from fedloru.advice import got, hint
from fedloru.errors import ModelError
from fedloru.net.loss import Batch, Loss, by_labels, find
from fedloru.net.record import Net, images
from fedloru.settings.types import Alphas, Count, Positive, Ranks, Share, Texts


def make(
    model: nn.Module,
    *,
    dense: Sequence[str] = ("*",),
    losses: str | Loss = by_labels,
    inputs: Callable[[Batch], dict[str, Tensor]] = images,
    skipped: Mapping[str, str] | None = None,
) -> Net:
    """Return ``model`` as a ``Net`` that trains the factors and the parameters that match a glob in ``dense``.

    Frozen parameters are not copied, so they must not be modified in place.

    Args:
        model: the model.
        dense: globs of the parameters that are trained besides factors.
        losses: maps (outputs, batch) to one loss per example, (b,), or the name of a loss; see ``attach``.
        inputs: maps a batch to the model's keyword arguments; an empty name is the first positional argument.
        skipped: why layers have no factors, by name.

    Raises:
        ModelError: ``dense`` is not a list of globs, the loss is unknown, or the model is compiled with TorchScript.
    """
    if isinstance(dense, str):
        raise ModelError(f"dense is the string {dense!r}, but a list of globs is expected: [{dense!r}]")
    _check_module(model)
    found = lowrank.sites(model)
    factors = {key for site in found for key in site.keys}
    # Frozen weights are never written to, and those of a language model should be in memory only once.
    params = {name: p.detach().clone() if p.requires_grad else p.detach() for name, p in model.named_parameters()}
    persistent = model.state_dict().keys()
    buffers = {n: b.detach().clone() for n, b in model.named_buffers() if n in persistent}
    trainable = frozenset(
        name
        for name, p in model.named_parameters()
        if p.requires_grad and (name in factors or any(fnmatchcase(name, glob) for glob in dense))
    )
    return Net(model, found, params, buffers, trainable, find(losses), inputs, skipped or {})


def _advice(value: object) -> str:
    if isinstance(value, Net):
        return ": pass the module, net.model, or use the Net as it is"
    return hint(value)


def _check_module(model: nn.Module) -> None:
    """Raise ``ModelError`` if ``model`` is not a module whose tensors exist and can be replaced."""
    if not isinstance(model, nn.Module):
        raise ModelError(f"the model is {got(model)}, expected a torch.nn.Module{_advice(model)}")
    if any(isinstance(layer, torch.jit.ScriptModule) for layer in model.modules()):
        raise ModelError(
            "the model is compiled with TorchScript, so its tensors cannot be replaced: pass the plain module"
        )
    tensors = [*model.named_parameters(), *model.named_buffers()]
    if lazy := [name for name, tensor in tensors if is_lazy(tensor)]:
        raise ModelError(
            f"{', '.join(lazy)} {'have' if len(lazy) > 1 else 'has'} no shape yet, because lazy layers learn it from "
            "their first input: call the model on a batch first"
        )
    if absent := [name for name, tensor in tensors if tensor.is_meta]:
        raise ModelError(
            f"{absent[0]} is on the meta device, where tensors have no values: create or load the model on the CPU"
        )


def attach(
    model: nn.Module,
    *,
    rank: Count = 8,
    alpha: Positive | None = None,
    targets: Texts | None = None,
    ranks: Ranks | None = None,
    alphas: Alphas | None = None,
    dropout: Share = 0.0,
    dense: Texts = ("*",),
    losses: str | Loss = by_labels,
    inputs: Callable[[Batch], dict[str, Tensor]] = images,
) -> Net:
    """Attach low-rank factors to a copy of ``model``: ``lowrank.attach``, then ``make``.

    Args:
        rank: the rank r of the factors.
        alpha: the scale of BA is alpha/r; by default alpha is twice the rank, and the scale 2.
        targets: globs of the linear, convolution and embedding layers that get factors; by default all but the output
            layer in which factors have at most half as many values as the weight, and in a language model the
            projections that are usual for its type.
        ranks: ranks of single layers, by glob; the last glob that matches wins.
        alphas: alphas of single layers, by glob; the last glob that matches wins.
        dropout: fraction of the rank-space activations that is dropped in training.
        dense: globs of the other parameters that are trained, such as biases, norms and the head.
        losses: maps (outputs, batch) to one loss per example, (b,); or a name: cross_entropy, mse, l1, huber or bce.
            By default, it is the cross-entropy if labels are classes, and mse if they are targets.
        inputs: maps a batch to the model's keyword arguments; an empty name is the first positional argument.

    Raises:
        ModelError: no layer matches, or a rank exceeds min(o, i) of its weight; all such sites are named.
    """
    _check_module(model)
    attached = lowrank.attach(
        model, rank=rank, alpha=alpha, targets=targets, ranks=ranks, alphas=alphas, dropout=dropout
    )
    return make(attached.model, dense=dense, losses=losses, inputs=inputs, skipped=attached.skipped)
