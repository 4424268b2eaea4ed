"""Change a transformers model so that it can be trained: plain linear layers, no cache, frozen weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedloru.errors import ModelError
from fedloru.hf.parts import BYTES, is_named_classifier, refuse_peft
from fedloru.hf.source import library
from fedloru.rng import forked, gen


def prepare(model: nn.Module, *, trained: Iterable[str] = (), checkpointing: bool = False) -> nn.Module:
    """Prepare a transformers model in place: make linear layers plain, disable the cache, freeze all but ``trained``.

    ``Conv1D`` of transformers, and subclasses of ``nn.Linear`` that compute the same, are replaced.

    Raises:
        ModelError: it is not a model of transformers, PEFT has added an adapter, it has an encoder and a decoder, or
            ``checkpointing`` is set, but the model does not support it.
    """
    refuse_peft(model)
    is_known: bool = isinstance(model, library().PreTrainedModel)
    if not is_known:
        raise ModelError(f"the model is a {type(model).__name__}, but a model of transformers is expected")
    if getattr(model.config, "is_encoder_decoder", False):
        raise ModelError(
            f"{type(model).__name__} has an encoder and a decoder, which is not supported: name a causal model, or an "
            "encoder to classify texts"
        )
    conv1d = library("transformers.pytorch_utils").Conv1D
    for name, layer in [*model.named_modules()]:
        if type(layer) is conv1d:
            model.set_submodule(name, _linear(layer, layer.weight.T))
        elif isinstance(layer, nn.Linear) and type(layer) is not nn.Linear and computes_linear(layer):
            model.set_submodule(name, _linear(layer, layer.weight))
    model.requires_grad_(False)
    for name in trained:
        model.get_parameter(name).requires_grad_()
    config: Any = model.config
    config.use_cache = config.get_text_config().use_cache = False
    pad(model)
    if checkpointing:
        _checkpoint(model)
    return model


def pad(model: Any) -> None:
    """Set the padding token of a classifier that has none, since it rejects batches without one.

    It is set to the end-of-sequence token if there is one. A classifier of the last token ignores padding tokens at the
    end, so token 0 would be a bad choice: it is "!" in the vocabulary of GPT-2.
    """
    config = model.config.get_text_config()
    if is_named_classifier(model) and getattr(config, "pad_token_id", None) is None:
        end = getattr(config, "eos_token_id", None)
        first = end[0] if isinstance(end, list) else end
        config.pad_token_id = first if first is not None and first < getattr(config, "vocab_size", BYTES) else 0


def transposed(model: nn.Module) -> tuple[str, ...]:
    """Return the keys of the weights that transformers stores transposed, in a ``Conv1D``."""
    conv1d = library("transformers.pytorch_utils").Conv1D
    return tuple(f"{name}.weight" for name, layer in on_meta(model).named_modules() if type(layer) is conv1d)


def on_meta(model: Any) -> Any:
    """Return an unchanged model of the same class and configuration, without values."""
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        return type(model)(model.config)


@torch.no_grad()
def computes_linear(layer: nn.Linear) -> bool:
    """Return whether a subclass of ``nn.Linear`` computes x·Wᵀ + bias and has no other state.

    It is called in both modes with vectors of several magnitudes, of two and three axes.
    """
    tensors = {**layer._parameters, **layer._buffers}
    if tensors.keys() != {"weight", "bias"} or layer._modules or layer._forward_hooks or layer._forward_pre_hooks:
        return False
    drawn = torch.randn(3, layer.in_features, generator=gen(0, "linear")).to(layer.weight)
    was_training = layer.training
    try:
        with forked(layer.weight.device):
            return all(
                _is_same(layer.train(training)(x), F.linear(x, layer.weight, layer.bias))
                for training in (True, False)
                for x in (drawn, drawn[None] * 1e3, drawn * 1e-3)
            )
    except Exception:  # the code of a model may raise anything, and a layer of another signature is not linear
        return False
    finally:
        layer.train(was_training)


def _is_same(output: Any, expected: Tensor) -> bool:
    if not isinstance(output, Tensor) or output.shape != expected.shape or output.dtype != expected.dtype:
        return False
    rounding = 8 * torch.finfo(expected.dtype).eps * float(expected.abs().max())
    return torch.allclose(output, expected, rtol=0, atol=rounding)


def _linear(layer: Any, weight: Tensor) -> nn.Linear:
    o, i = weight.shape
    linear = nn.Linear(i, o, device="meta")
    is_same = weight is layer.weight
    linear.weight = layer.weight if is_same else nn.Parameter(weight.detach().contiguous(), layer.weight.requires_grad)
    linear.bias = layer.bias
    return linear.train(layer.training)


def _checkpoint(model: Any) -> None:
    try:
        model.activation_checkpointing_enable({"use_reentrant": False})
    except ValueError as error:
        raise ModelError(f"{error} Set checkpointing to false") from error
    model.disable_input_require_grads()  # only reentrant checkpointing needs gradients at the embeddings
