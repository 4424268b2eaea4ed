"""A model as data: a static module, its sites, and its tensors, stored separately from the module.

The module only defines the forward pass. The tensors that it computes with are always passed in: ``use_tensors`` puts
them into the module temporarily, and then restores the module's own tensors, which are never modified.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fedloru import lowrank, tree
from fedloru.errors import ModelError
from fedloru.lowrank import Increment, Site
from fedloru.settings.types import Alphas, Count, Positive, Ranks, Share, Texts
from fedloru.tree import Params

Batch = dict[str, Tensor]
SINGLE = (
    "Set client.drop_last (drop_last in a Recipe), which leaves out the short last batch of an epoch, and give every "
    "client 2 examples or more (partition.min_examples); or change the batch size"
)
"""The advice for a model, such as one with BatchNorm, that does not train on a batch of a single example."""


def cross_entropy(outputs: Tensor, batch: Batch) -> Tensor:
    """Return the cross-entropy in nats, (b,), of logits (b, classes) against ``batch["y"]``."""
    return F.cross_entropy(outputs, batch["y"], reduction="none")


def images(batch: Batch) -> dict[str, Tensor]:
    """Pass ``batch["x"]`` to the model as its only positional argument; the default of ``Net.inputs``."""
    return {"": batch["x"]}


class Metrics(NamedTuple):
    """Sums over the units of a batch: the losses in nats, the number of correct predictions, and the number of units.

    For classification, ``confusion`` (C, C) counts the examples by true class and predicted class.
    """

    loss: Tensor
    right: Tensor
    count: Tensor  # type: ignore[assignment]  # overrides tuple.count, which is not needed here
    confusion: Tensor | None = None


class Net(NamedTuple):
    """A model as data: static, never traced.

    ``params`` and ``buffers`` are the initial tensors; ``trainable`` contains the names of the parameters that a
    method may train. ``losses`` maps (outputs, batch) to (b,), one loss per example. ``inputs`` maps a batch to the
    keyword arguments of the model; the empty name stands for the first positional argument. ``score`` maps
    (outputs, batch) to the metrics of the batch, summed over its units (None: the losses, and the accuracy of the
    class with the highest output). If ``local_base`` is set, every client loads the frozen weights itself, and they are
    never sent. ``imported`` is an increment that is already merged into ``params``, such as an adapter.
    """

    model: nn.Module
    sites: tuple[Site, ...]
    params: Params
    buffers: Params
    trainable: frozenset[str]
    losses: Callable[[Any, Batch], Tensor] = cross_entropy
    inputs: Callable[[Batch], dict[str, Tensor]] = images
    skipped: Mapping[str, str] = {}
    score: Callable[[Any, Batch], Metrics] | None = None
    unit: Literal["example", "token"] = "example"
    local_base: bool = False
    imported: Increment | None = None

    @property
    def factors(self) -> frozenset[str]:
        """The keys of all factors."""
        return frozenset(key for site in self.sites for key in site.keys)

    @property
    def statistics(self) -> frozenset[str]:
        """The keys of floating-point buffers, such as BatchNorm's running means: averaged, never trained."""
        return frozenset(key for key, value in self.buffers.items() if value.is_floating_point())


def make(
    model: nn.Module,
    *,
    dense: Sequence[str] = ("*",),
    losses: Callable[[Any, Batch], Tensor] = cross_entropy,
    inputs: Callable[[Batch], dict[str, Tensor]] = images,
    skipped: Mapping[str, str] | None = None,
) -> Net:
    """Return ``model`` as a ``Net`` that trains the factors and the parameters that match a glob in ``dense``.

    Frozen parameters are not copied, so they must not be modified in place.

    Raises:
        ModelError: ``dense`` is not a list of globs, or the model is compiled with TorchScript.
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
    return Net(model, found, params, buffers, trainable, losses, inputs, skipped or {})


def _check_module(model: nn.Module) -> None:
    """Raise ``ModelError`` if ``model`` is not a module whose tensors exist and can be replaced."""
    if not isinstance(model, nn.Module):
        raise ModelError(f"the model is a {type(model).__name__}, expected a torch.nn.Module")
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
    losses: Callable[[Any, Batch], Tensor] = cross_entropy,
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
        losses: maps (outputs, batch) to one loss per example, (b,).
        inputs: maps a batch to the model's keyword arguments; an empty name is the first positional argument.

    Raises:
        ModelError: no layer matches, or a rank exceeds min(o, i) of its weight; all such sites are named.
    """
    _check_module(model)
    attached = lowrank.attach(
        model, rank=rank, alpha=alpha, targets=targets, ranks=ranks, alphas=alphas, dropout=dropout
    )
    return make(attached.model, dense=dense, losses=losses, inputs=inputs, skipped=attached.skipped)


def forward(net: Net, tensors: Mapping[str, Tensor], batch: Batch) -> Any:
    """Run the model on ``batch`` with ``tensors`` (parameters and buffers) instead of its current values."""
    with use_tensors(net, dict(tensors)):
        return compute_outputs(net, batch)


def losses(net: Net, tensors: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """Return one loss per example, (b,), with ``tensors`` instead of the model's own; see ``compute_losses``."""
    with use_tensors(net, dict(tensors)):
        return compute_losses(net, batch)


@contextmanager
def use_tensors(net: Net, tensors: Params) -> Iterator[None]:
    """Make the module compute with ``tensors`` inside the context, and restore its own tensors on exit.

    Unlike ``torch.func.functional_call``, which restores them right after the forward pass, the context can span both
    passes of a local step, as it must: a checkpointed layer is computed again in the backward pass. A tied weight is
    looked up by the first of its names. If the module replaces a buffer, ``tensors`` is updated with the new one.
    """
    tables = [
        (f"{name}." if name else "", table)
        for name, layer in net.model.named_modules()
        for table in (layer._parameters, layer._buffers)
    ]
    own = [dict(table) for _, table in tables]
    try:
        _insert(tables, tensors)
        yield
        current = {prefix + name: tensor for prefix, table in tables for name, tensor in table.items()}
        tensors.update({key: now for key in tensors if (now := current.get(key)) is not None})
    finally:
        for (_, table), before in zip(tables, own, strict=True):
            table.clear()
            table.update(before)


def _insert(tables: Sequence[tuple[str, dict[str, Any]]], tensors: Params) -> None:
    first_names: dict[Tensor, str] = {}
    for prefix, table in tables:
        for name, tensor in table.items():
            if tensor is not None:
                key = first_names.setdefault(tensor, prefix + name)
                table[name] = tensors.get(key, tensor)


def compute_outputs(net: Net, batch: Batch) -> Any:
    """Run the model on ``batch`` with the tensors it currently has."""
    named = net.inputs(batch)
    args = (named[""],) if "" in named else ()
    return net.model(*args, **{name: value for name, value in named.items() if name})


def compute_losses(net: Net, batch: Batch) -> Tensor:
    """Return one loss per example, (b,), with the tensors that the model currently has.

    Raises:
        ModelError: the model rejects the batch, as BatchNorm rejects a single example, or the loss is not (b,).
    """
    try:
        each = net.losses(compute_outputs(net, batch), batch)
    except ValueError as error:
        count = len(next(iter(batch.values())))
        hint = SINGLE if count == 1 else "Change the batch size, or the model"
        raise ModelError(f"the model cannot process a batch of {count}: {error}. {hint}") from error
    if each.ndim != 1:
        raise ModelError(
            f"the loss has shape {tuple(each.shape)}, but one loss per example, (b,), is expected: "
            "use reduction='none', and average over all axes except the first"
        )
    return each


def metrics(net: Net, outputs: Any, batch: Batch) -> Metrics:
    """Return the metrics of ``outputs`` on ``batch``."""
    if net.score is not None:
        return net.score(outputs, batch)
    return classification_metrics(net.losses(outputs, batch), outputs, batch["y"])


def classification_metrics(losses: Tensor, scores: Tensor, y: Tensor) -> Metrics:
    """Return the metrics of examples of classes ``y`` (b,), from their ``losses`` (b,) and ``scores`` (b, C)."""
    classes = scores.shape[-1]
    pairs = torch.bincount(y * classes + scores.argmax(-1), minlength=classes**2)
    confusion = pairs.view(classes, classes)
    return Metrics(losses.sum(), confusion.trace(), confusion.sum(), confusion)


def constants(net: Net, base: Params) -> Params:
    """Return ``base`` and all initial buffers, as tensors that a forward pass may compute with and write to."""
    buffers = {key: value.detach() for key, value in net.model.named_buffers()} | net.buffers
    if base:
        buffers = tree.to(buffers, next(iter(base.values())).device)
    return unshared(net, base | buffers)


def unshared(net: Net, tensors: Params) -> Params:
    """Return ``tensors`` with copies of those that a forward pass may write to: buffers and max-norm embeddings."""
    renormed = [
        f"{name}.weight" if name else "weight"
        for name, layer in net.model.named_modules()
        if isinstance(layer, nn.Embedding | nn.EmbeddingBag) and layer.max_norm is not None
    ]
    written = [*renormed, *(key for key, _ in net.model.named_buffers())]
    return tensors | tree.clone({key: tensors[key] for key in written if key in tensors})


def load(net: Net, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Return a plain copy of the module with ``tensors``, their factors merged into the weights."""
    model = lowrank.shallow_copy(net.model, trained=False)
    with torch.no_grad():
        own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        for name, value in tensors.items():
            own[name].data = value.detach().to(own[name]).clone()  # factors may have a different rank
    return lowrank.detach(model)


@contextmanager
def mode(net: Net, training: bool) -> Iterator[None]:
    """Put the module into training or evaluation mode inside the context."""
    before = {module: module.training for module in net.model.modules()}
    net.model.train(training)
    try:
        yield
    finally:
        for module, training_before in before.items():
            module.training = training_before
