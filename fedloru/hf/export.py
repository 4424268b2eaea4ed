"""What a net has learnt as a model of the library: a folder that ``from_pretrained`` loads, or an adapter in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from fedloru import net as nets
from fedloru.errors import ModelError
from fedloru.hf.base import described, is_remote, revision
from fedloru.hf.models import tokenizer, transposed
from fedloru.hf.source import Source, library, quiet, source
from fedloru.net import Net
from fedloru.tree import Params


def save_merged(net: Net, tensors: Params, folder: Path) -> None:
    """Write the model of ``tensors``, factors merged, as the library writes its own, and the tokenizer of its base.

    Raises:
        ModelError: the model needs code that comes with it.
    """
    model: Any = net.model
    if is_remote(model):
        raise ModelError(
            f"the {type(model).__name__} needs code that comes with {model.name_or_path}, and the folder would lack "
            "it: export an adapter, with the format peft"
        )
    whole: Any = plain(nets.load(net, tensors))
    with quiet():
        whole.save_pretrained(folder)
        if (words := _tokenizer(model)) is not None:
            words.save_pretrained(folder)


def load_merged(net: Net, folder: Path) -> nn.Module:
    """Return the model in ``folder`` as the library loads it, and computes attention like ``net``.

    Raises:
        ModelError: it cannot be loaded.
    """
    model: nn.Module = described(net, Source("")).load(Source(str(folder)))
    return model


def named_base(net: Net) -> dict[str, Any]:
    """Return what is told of the model that ``net`` was made from; its name is "" where it was made in memory."""
    model: Any = net.model
    return described(net, Source(model.name_or_path, revision(model))).table


def plain(model: nn.Module) -> nn.Module:
    """Turn a model that ``prepare`` made ready back, in place, into what the library makes."""
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
    """Return the tokenizer of the base; None where it has none, or the model was made in memory."""
    if not model.name_or_path:
        return None
    place = source(model.name_or_path, revision(model))
    try:
        return tokenizer(place.name, revision=place.revision)
    except ModelError:
        return None
