"""The forms in which a model is taken home, each written into a folder and loaded from it again.

merged    the whole model, factors merged: a folder that ``from_pretrained`` of transformers loads, or for any other
          model, the state dict of its module
peft      what was learnt, as an adapter of the PEFT library for the untouched base
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
from fedloru.exports.trained import Learnt
from fedloru.files import write_atomic
from fedloru.net import Net
from fedloru.run.folder import MODEL
from fedloru.tree import Params

TRAINING = "the training model"


class Written(NamedTuple):
    """A model loaded again from where it was written, the tensors that a net scores the same with, and what is told."""

    model: nn.Module
    tensors: Params
    against: str
    notes: dict[str, Any]


def merged(learnt: Learnt, folder: Path, rank: int | None) -> Written:
    """Write the whole model.

    Raises:
        ConfigError: a rank is given.
        ModelError: the model cannot be written, or not be loaded again.
    """
    if rank is not None:
        raise ConfigError(
            [f"the rank is {rank}, but only adapters are cut to one: leave it out, or take peft"], "export"
        )
    net, tensors = learnt.plan.net, learnt.tensors
    if net.local_base:
        hf.save_merged(net, tensors, folder)
        model, notes = hf.load_merged(net, folder), {"base": hf.named_base(net)}
    else:
        model, notes = _save_state(net, tensors, folder), {}
    if is_wide(net):
        return Written(model, tensors, TRAINING, notes)
    whole = dict(nets.load(net, tensors).named_parameters())
    return Written(model, whole | _idle(net), "the merged weights, rounded to their type", notes)


def peft(learnt: Learnt, folder: Path, rank: int | None) -> Written:
    """Write the adapter.

    Raises:
        ConfigError: the rank is below 1.
        ModelError: the model is none of transformers, or what it has learnt is no adapter.
        RunFolderError: increments are missing.
    """
    net = learnt.plan.net
    if rank is not None and rank < 1:
        raise ConfigError([f"the rank is {rank}, expected 1 or more"], "export")
    if not net.local_base:
        raise ModelError(
            f"the model is a {type(net.model).__name__}, and adapters are for models of transformers: export the "
            "merged model, with the format merged"
        )
    made = hf.save_adapter(net, learnt.tensors, learnt.increments, folder, rank)
    notes = {"base": made.base, "ranks": made.ranks, "errors": made.errors}
    if made.errors:
        return Written(made.model, made.tensors, "the weights with the truncated adapter", notes)
    if is_wide(net):
        return Written(made.model, learnt.tensors, TRAINING, notes)
    return Written(made.model, made.tensors, "the weights with all increments, never rounded", notes)


def is_wide(net: Net) -> bool:
    """Say whether all weights are float32 or wider, so that merges lose nothing that could be seen."""
    return all(value.dtype.itemsize >= 4 for value in net.params.values() if value.is_floating_point())


def _idle(net: Net) -> Params:
    return tree.map(torch.zeros_like, tree.select(net.params, sorted(net.factors)))


def _save_state(net: Net, tensors: Params, folder: Path) -> nn.Module:
    state = {key: t.detach().clone().contiguous() for key, t in nets.load(net, tensors).state_dict().items()}
    write_atomic(folder / MODEL, safetensors.torch.save(state))
    again = lowrank.detach(nets.load(net, net.params | net.buffers))
    again.load_state_dict(safetensors.torch.load_file(folder / MODEL))
    return again


FORMATS: dict[str, Callable[[Learnt, Path, int | None], Written]] = {"merged": merged, "peft": peft}
