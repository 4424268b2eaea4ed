"""Compute with the module of a ``Net``: the tensors are always passed in.

``use_tensors`` puts them into the module temporarily, and then restores the module's own tensors, which are never
modified.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn

from fedloru import lowrank, tree
from fedloru.errors import ModelError
from fedloru.net.loss import Batch, check
from fedloru.net.precision import in_float32
from fedloru.net.record import Net
from fedloru.tree import Params

SINGLE = (
    "A batch has one example if client.batch_size is 1 (raise it), if a client has a single example (set "
    "partition.min_examples to 2), or at the end of an epoch (set client.drop_last, or drop_last in a Recipe)"
)
"""The advice for a model, such as one with BatchNorm, that does not train on a batch of a single example."""


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
    passes of a local step, as it must: a checkpointed layer is computed again in the backward pass. If the module
    replaces a buffer, ``tensors`` is updated with the new one.
    """
    with Slots(net.model) as slots:
        slots.insert(tensors)
        yield
        slots.read(tensors)


class Slots:
    """The places of a module's tensors: a context that restores the module's own tensors on exit.

    A tied weight has several places, and the first of its names as key.
    """

    def __init__(self, model: nn.Module) -> None:
        self._own: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self._slots: list[tuple[str, dict[str, Any], str, Tensor]] = []
        self.buffers: list[str] = []
        """The keys of the buffers."""
        self._changing: list[tuple[dict[str, Any], dict[str, Any]]] = []
        keys: dict[Tensor, str] = {}
        for prefix, layer in model.named_modules():
            for table in (layer._parameters, layer._buffers):
                self._own.append((table, dict(table)))
                if table is layer._buffers and (not table or None in table.values()):
                    self._changing.append(self._own[-1])
                for name, tensor in table.items():
                    if tensor is not None:
                        full_name = f"{prefix}.{name}" if prefix else name
                        key = keys.setdefault(tensor, full_name)
                        self._slots.append((key, table, name, tensor))
                        if table is layer._buffers and key == full_name:
                            self.buffers.append(key)

    def __enter__(self) -> Self:
        return self

    def insert(self, tensors: Mapping[str, Tensor]) -> None:
        """Make the module compute with ``tensors``, and with its own tensors for other keys."""
        for buffers, initial in self._changing:  # those that are None, or that a forward pass has added
            buffers.clear()
            buffers.update(initial)
        for key, table, name, own in self._slots:
            table[name] = tensors.get(key, own)

    def read(self, tensors: Params) -> None:
        """Update ``tensors`` with those that the module has replaced."""
        current = {key: table.get(name) for key, table, name, _ in reversed(self._slots)}
        tensors.update({key: now for key in tensors if (now := current.get(key)) is not None})

    def __exit__(self, *exception: object) -> None:
        for table, own in self._own:
            table.clear()
            table.update(own)


def compute_outputs(net: Net, batch: Batch) -> Any:
    """Run the model on ``batch`` with the tensors it currently has."""
    named = net.inputs(batch)
    args = (named[""],) if "" in named else ()
    return net.model(*args, **{name: value for name, value in named.items() if name})


def compute_losses(net: Net, batch: Batch) -> Tensor:
    """Return one loss per example, (b,), with the tensors that the model currently has; under autocast, in float32.

    Raises:
        ModelError: the model rejects the batch, as BatchNorm rejects a single example, or the loss is not (b,).
    """
    try:
        each = in_float32(net.losses, compute_outputs(net, batch), batch)
    except ValueError as error:
        count = len(next(iter(batch.values())))
        hint = SINGLE if count == 1 else "Change the batch size, or the model"
        raise ModelError(f"the model cannot process a batch of {count}: {error}. {hint}") from error
    return check(each, len(next(iter(batch.values()))))


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
