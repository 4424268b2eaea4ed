"""A model as data: a static module, its sites, and its tensors taken out of it.

The module itself is only a recipe for the forward pass. What it computes with is always handed in: it holds these
tensors for a while (``holding``), and its own, which nobody changes, come back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedloru import lowrank, tree
from fedloru.errors import ModelError
from fedloru.lowrank import Increment, Site
from fedloru.tree import Params

Batch = dict[str, Tensor]


def cross_entropy(outputs: Tensor, batch: Batch) -> Tensor:
    """Return the cross-entropy in nats, (b,), of logits (b, classes) against ``batch["y"]``."""
    return F.cross_entropy(outputs, batch["y"], reduction="none")


def images(batch: Batch) -> dict[str, Tensor]:
    """Hand ``batch["x"]`` to the model as its one argument ``input``; the default of ``Net.inputs``."""
    return {"": batch["x"]}


class Metrics(NamedTuple):
    """What a batch scores, summed over its units: their losses in nats, how many are right, and how many there are.

    Where units are examples with a class, ``confusion`` (C, C) counts those of each class that are given each class.
    """

    loss: Tensor
    right: Tensor
    count: Tensor  # type: ignore[assignment]  # a tuple's own count is of no use here
    confusion: Tensor | None = None


class Net(NamedTuple):
    """A model as data: static, never traced.

    ``params`` and ``buffers`` are the tensors at the start; ``trainable`` names the parameters that a method
    may train. ``losses`` maps (outputs, batch) to (b,), one loss per example; ``inputs`` maps a batch to the
    model's keyword arguments, an empty name being the first positional one. ``score`` maps (outputs, batch) to sums
    over the units in which the model is evaluated (None: its losses, and the class of the highest output).
    ``local_base`` says that every client loads the frozen weights itself, so that they never travel. ``imported`` is
    what is merged into ``params`` already, such as an adapter.
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
    """Take the tensors out of ``model``; beside the factors, it trains the parameters that match ``dense``.

    What is frozen in ``model`` is not copied, so nobody may write into it.

    Raises:
        ModelError: ``dense`` is no list of globs, or the model is compiled by TorchScript.
    """
    if isinstance(dense, str):
        raise ModelError(f"dense is the string {dense!r}, and a list of globs is expected: [{dense!r}]")
    if any(isinstance(layer, torch.jit.ScriptModule) for layer in model.modules()):
        raise ModelError("the model is compiled by TorchScript, and cannot hold other tensors: hand in the plain one")
    found = lowrank.sites(model)
    factors = {key for site in found for key in site.keys}
    # Nothing here ever writes into frozen weights, and those of a language model should be held once.
    params = {name: p.detach().clone() if p.requires_grad else p.detach() for name, p in model.named_parameters()}
    persistent = model.state_dict().keys()
    buffers = {n: b.detach().clone() for n, b in model.named_buffers() if n in persistent}
    trainable = frozenset(
        name
        for name, p in model.named_parameters()
        if p.requires_grad and (name in factors or any(fnmatchcase(name, glob) for glob in dense))
    )
    return Net(model, found, params, buffers, trainable, losses, inputs, skipped or {})


def attach(
    model: nn.Module,
    *,
    rank: int = 8,
    alpha: float | None = None,
    targets: Sequence[str] = ("*",),
    ranks: Mapping[str, int] | None = None,
    alphas: Mapping[str, float] | None = None,
    dropout: float = 0.0,
    dense: Sequence[str] = ("*",),
    losses: Callable[[Any, Batch], Tensor] = cross_entropy,
    inputs: Callable[[Batch], dict[str, Tensor]] = images,
) -> Net:
    """Attach low-rank factors to a copy of ``model``: ``lowrank.attach``, then ``make``."""
    attached = lowrank.attach(
        model, rank=rank, alpha=alpha, targets=targets, ranks=ranks, alphas=alphas, dropout=dropout
    )
    return make(attached.model, dense=dense, losses=losses, inputs=inputs, skipped=attached.skipped)


def forward(net: Net, tensors: Mapping[str, Tensor], batch: Batch) -> Any:
    """Run the model on ``batch`` with ``tensors`` (parameters and buffers) in place of its own."""
    with holding(net, dict(tensors)):
        return held_outputs(net, batch)


def losses(net: Net, tensors: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """Return one loss per example, (b,), with ``tensors`` in place of the model's own; see ``held_losses``."""
    with holding(net, dict(tensors)):
        return held_losses(net, batch)


@contextmanager
def holding(net: Net, tensors: Params) -> Iterator[None]:
    """Let the module compute with ``tensors``; its own come back at the end, whatever happens.

    ``torch.func.functional_call`` gives them back right after the forward pass, but a layer that is checkpointed is
    computed once more in the backward pass: both passes of a local step belong in here. A tied weight goes by the
    first of its names. What the module puts in the place of a buffer takes that buffer's place in ``tensors``.
    """
    tables = [
        (f"{name}." if name else "", table)
        for name, layer in net.model.named_modules()
        for table in (layer._parameters, layer._buffers)
    ]
    own = [dict(table) for _, table in tables]
    try:
        _hand_out(tables, tensors)
        yield
        held = {prefix + name: tensor for prefix, table in tables for name, tensor in table.items()}
        tensors.update({key: now for key in tensors if (now := held.get(key)) is not None})
    finally:
        for (_, table), was in zip(tables, own, strict=True):
            table.clear()
            table.update(was)


def _hand_out(tables: Sequence[tuple[str, dict[str, Any]]], tensors: Params) -> None:
    first_names: dict[Tensor, str] = {}
    for prefix, table in tables:
        for name, tensor in table.items():
            if tensor is not None:
                key = first_names.setdefault(tensor, prefix + name)
                table[name] = tensors.get(key, tensor)


def held_outputs(net: Net, batch: Batch) -> Any:
    """Run the model on ``batch`` with what it holds now."""
    named = net.inputs(batch)
    args = (named[""],) if "" in named else ()
    return net.model(*args, **{name: value for name, value in named.items() if name})


def held_losses(net: Net, batch: Batch) -> Tensor:
    """Return one loss per example, (b,), with what the model holds now.

    Raises:
        ModelError: the model refuses the batch, as BatchNorm does one example, or its loss is not (b,).
    """
    try:
        each = net.losses(held_outputs(net, batch), batch)
    except ValueError as error:
        count = len(next(iter(batch.values())))
        raise ModelError(
            f"the model refuses a batch of {count}: {error}. Choose another batch size, or model"
        ) from error
    if each.ndim != 1:
        raise ModelError(
            f"the loss has shape {tuple(each.shape)}, but one loss per example, (b,), is needed: "
            "use reduction='none' and average over everything but the first axis"
        )
    return each


def metrics(net: Net, outputs: Any, batch: Batch) -> Metrics:
    """Return what ``outputs`` score on ``batch``."""
    if net.score is not None:
        return net.score(outputs, batch)
    return classification_metrics(net.losses(outputs, batch), outputs, batch["y"])


def classification_metrics(losses: Tensor, scores: Tensor, y: Tensor) -> Metrics:
    """Return the tally of examples of the classes ``y`` (b,), by their ``losses`` (b,) and ``scores`` (b, C)."""
    classes = scores.shape[-1]
    pairs = torch.bincount(y * classes + scores.argmax(-1), minlength=classes**2)
    confusion = pairs.view(classes, classes)
    return Metrics(losses.sum(), confusion.trace(), confusion.sum(), confusion)


def constants(net: Net, base: Params) -> Params:
    """Return the base, and all buffers as they are at the start, for a forward pass to compute with and write to."""
    buffers = {key: value.detach() for key, value in net.model.named_buffers()} | net.buffers
    if base:
        buffers = tree.to(buffers, next(iter(base.values())).device)
    return unshared(net, base | buffers)


def unshared(net: Net, tensors: Params) -> Params:
    """Return ``tensors`` with copies of what a forward pass may write to: buffers, and embeddings that it renorms."""
    renormed = [
        f"{name}.weight" if name else "weight"
        for name, layer in net.model.named_modules()
        if isinstance(layer, nn.Embedding | nn.EmbeddingBag) and layer.max_norm is not None
    ]
    written = [*renormed, *(key for key, _ in net.model.named_buffers())]
    return tensors | tree.clone({key: tensors[key] for key in written if key in tensors})


def load(net: Net, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Return a plain copy of the module that holds ``tensors``, with the factors merged into the weights."""
    model = lowrank.shallow_copy(net.model, trained=False)
    with torch.no_grad():
        own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        for name, value in tensors.items():
            own[name].data = value.detach().to(own[name]).clone()  # factors may come in another rank
    return lowrank.detach(model)


@contextmanager
def mode(net: Net, training: bool) -> Iterator[None]:
    """Put the module in training or evaluation mode for a while."""
    before = {module: module.training for module in net.model.modules()}
    net.model.train(training)
    try:
        yield
    finally:
        for module, was in before.items():
            module.training = was
