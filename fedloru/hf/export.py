"""Write the trained model of a net as a folder for ``from_pretrained`` of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from fedloru import net as nets
from fedloru.errors import ModelError
from fedloru.hf.base import described, is_remote, revision
from fedloru.hf.models import auto_class
from fedloru.hf.models import tokenizer as load_tokenizer
from fedloru.hf.parts import is_classifier
from fedloru.hf.preparation import transposed
from fedloru.hf.source import Source, library, quiet, source
from fedloru.net import Net
from fedloru.tree import Params


def save_merged(net: Net, tensors: Params, folder: Path) -> None:
    """Save the model with ``tensors`` and merged factors by ``save_pretrained``, and the tokenizer of its base.

    Raises:
        ModelError: the model needs remote code.
    """
    model: Any = net.model
    if problem := merged_problem(net):
        raise ModelError(problem)
    whole: Any = plain(nets.load(net, tensors))
    with quiet():
        whole.save_pretrained(folder)
    save_tokenizer(model, folder)


def save_tokenizer(model: Any, folder: Path) -> None:
    """Save the tokenizer of the base of ``model``, if it has one."""
    if (tokenizer := _tokenizer(model)) is not None:
        with quiet():
            tokenizer.save_pretrained(folder)


def merged_problem(net: Net) -> str | None:
    """Return why the model of ``net`` cannot be saved as a folder; None if it can."""
    model: Any = net.model
    if is_remote(model):
        return (
            f"the {type(model).__name__} needs the remote code of {model.name_or_path}, which would be missing from "
            "the exported folder: export an adapter instead, with the format peft"
        )
    if type(model.config) not in auto_class("classify" if is_classifier(model) else "causal")._model_mapping:
        return (
            f"a saved {type(model).__name__} is of the type {model.config.model_type!r}, which transformers could not "
            "load again: export an adapter instead, with the format peft"
        )
    return None


def load_merged(net: Net, folder: Path) -> nn.Module:
    """Load the model in ``folder`` with transformers, with the attention implementation of ``net``.

    Raises:
        ModelError: it cannot be loaded.
    """
    model: nn.Module = described(net, Source("")).load(Source(str(folder)))
    return model


def named_base(net: Net) -> dict[str, Any]:
    """Return the description of the base of ``net``; its name is "" if the model was created in memory."""
    model: Any = net.model
    return described(net, Source(model.name_or_path, revision(model))).table


def plain(model: nn.Module) -> nn.Module:
    """Undo ``prepare`` in place: restore ``Conv1D`` layers and the cache."""
    conv1d = library("transformers.pytorch_utils").Conv1D
    for key in transposed(model):
        name = key.removesuffix(".weight")
        linear: Any = model.get_submodule(name)
        with torch.device("meta"):
            layer = conv1d(linear.out_features, linear.in_features)
        layer.weight = nn.Parameter(linear.weight.detach().T.contiguous(), linear.weight.requires_grad)
        layer.bias = linear.bias
        model.set_submodule(name, layer.train(linear.training))
    config: Any = model.config
    for part in (config, config.get_text_config()):
        part.use_cache = True
    return model


def _tokenizer(model: Any) -> Any:
    """Return the tokenizer of the base; None if it has none, or if the model was created in memory."""
    if not model.name_or_path:
        return None
    place = source(model.name_or_path, revision(model))
    try:
        return load_tokenizer(place.name, revision=place.revision)
    except ModelError:
        return None
