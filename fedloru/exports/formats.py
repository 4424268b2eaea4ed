"""The formats of an export. Each function writes a model to a folder and loads it again.

merged    the whole model with the factors merged: for a language model, a folder for ``from_pretrained`` of
          transformers; for any other model, the state dict of its module
peft      the learned update, as an adapter of the PEFT library for the unchanged base
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import nn

from fedloru import hf, lowrank, tree
from fedloru import net as nets
from fedloru.errors import ConfigError, ModelError
from fedloru.exports.trained import TrainedRun
from fedloru.files import write_atomic
from fedloru.net import Net
from fedloru.reading import read_tensors
from fedloru.run.folder import MODEL
from fedloru.tree import Params

TRAINED = "the trained model"


class Written(NamedTuple):
    """An exported model, loaded again.

    ``tensors`` are those with which the run's net must give the same scores, ``against`` describes them, and ``notes``
    are added to fedloru.json.
    """

    model: nn.Module
    tensors: Params
    against: str
    notes: dict[str, Any]


def merged(trained: TrainedRun, folder: Path, rank: int | None, base: str | None) -> Written:
    """Write the whole model.

    Raises:
        ConfigError: a rank or the name of a base is given.
        ModelError: the model cannot be written, or cannot be loaded again.
    """
    if rank is not None:
        raise ConfigError(
            [f"rank is {rank}, but only adapters can be truncated: leave it out, or use the format peft"], "export"
        )
    if base is not None:
        raise ConfigError(
            [f"base is {base!r}, but only adapters need a base: leave it out, or use the format peft"], "export"
        )
    net, tensors = trained.plan.net, trained.tensors
    if net.local_base:
        hf.save_merged(net, tensors, folder)
        model, notes = hf.load_merged(net, folder), {"base": hf.named_base(net)}
    else:
        model, notes = _save_state(net, tensors, folder), {}
    if is_wide(net):
        return Written(model, tensors, TRAINED, notes)
    whole = dict(nets.load(net, tensors).named_parameters())
    return Written(model, whole | _zero_factors(net), "the merged weights, rounded to their dtype", notes)


def peft(trained: TrainedRun, folder: Path, rank: int | None, base: str | None) -> Written:
    """Write the adapter.

    Raises:
        ConfigError: the rank is below 1.
        ModelError: the model is not a transformers model, or its learned update is not an adapter.
        RunFolderError: increments are missing.
    """
    net = trained.plan.net
    if rank is not None and rank < 1:
        raise ConfigError([f"rank is {rank}, expected 1 or more"], "export")
    if not net.local_base:
        raise ModelError(
            f"the model is a {type(net.model).__name__}, but adapters are only available for transformers models: "
            "export the merged model, with the format merged"
        )
    adapter = hf.save_adapter(net, trained.tensors, trained.increments, folder, rank, base)
    notes = {"base": adapter.base, "ranks": adapter.ranks, "errors": adapter.errors}
    if adapter.errors:
        return Written(adapter.model, adapter.tensors, "the weights with the truncated adapter", notes)
    if is_wide(net):
        return Written(adapter.model, trained.tensors, TRAINED, notes)
    return Written(adapter.model, adapter.tensors, "the unrounded sum of the base and all increments", notes)


def is_wide(net: Net) -> bool:
    """Return whether all weights are float32 or wider, so that the rounding of merges is negligible."""
    return all(value.dtype.itemsize >= 4 for value in net.params.values() if value.is_floating_point())


def _zero_factors(net: Net) -> Params:
    return tree.map(torch.zeros_like, tree.select(net.params, sorted(net.factors)))


def _save_state(net: Net, tensors: Params, folder: Path) -> nn.Module:
    state = {key: t.detach().clone().contiguous() for key, t in nets.load(net, tensors).state_dict().items()}
    write_atomic(folder / MODEL, safetensors.torch.save(state))
    loaded = lowrank.detach(nets.load(net, net.params | net.buffers))
    loaded.load_state_dict(read_tensors(folder / MODEL)[0])
    return loaded


FORMATS: dict[str, Callable[[TrainedRun, Path, int | None, str | None], Written]] = {"merged": merged, "peft": peft}
