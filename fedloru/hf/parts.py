"""The parts of a transformers model: what it is for, its body and its head."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fedloru.errors import ModelError
from fedloru.rng import gen

BYTES = 256
"""The number of tokens of a model without a vocabulary, which reads characters."""


def is_classifier(model: nn.Module) -> bool:
    """Return whether a transformers model classifies texts (True) or predicts the next token (False).

    Raises:
        ModelError: it does neither, or PEFT has changed it.
    """
    refuse_peft(model)
    if is_named_classifier(model):
        return True
    if getattr(model, "get_output_embeddings", lambda: None)() is None:
        raise ModelError(
            f"{type(model).__name__} neither predicts the next token nor classifies texts: load the model with "
            "fedloru.hf.load, as task 'causal' or 'classify'"
        )
    return False


def is_named_classifier(model: nn.Module) -> bool:
    """Return whether the model is of a class for the classification of texts."""
    return type(model).__name__.endswith("ForSequenceClassification")


def refuse_peft(model: nn.Module) -> None:
    """Raise ModelError if PEFT has added an adapter to the model."""
    if any(type(layer).__module__.split(".")[0] == "peft" for layer in model.modules()):
        raise ModelError(
            f"the model is a {type(model).__name__} with an adapter of PEFT, whose layers fedloru does not train: pass "
            "model.merge_and_unload(), or save the adapter, load its base with fedloru.hf.load and merge the adapter "
            "with fedloru.hf.adopt"
        )


def in_body(model: Any) -> Callable[[str], bool]:
    """Return a function that tells by the name of a parameter or layer whether it belongs to the body.

    The body is the part named by ``base_model_prefix``. If that names nothing, as for Llama-4 and Mllama, it is all but
    the output embeddings of a causal model, or the part of a classifier with the input embeddings.
    """
    prefix = f"{model.base_model_prefix}."
    if any(name.startswith(prefix) for name, _ in model.named_parameters()):
        return lambda name: name.startswith(prefix)
    if is_named_classifier(model):
        part = f"{_name(model, model.get_input_embeddings()).split('.')[0]}."
        return lambda name: name.startswith(part)
    head = f"{_name(model, model.get_output_embeddings())}."
    return lambda name: not f"{name}.".startswith(head)


def is_pooler(name: str) -> bool:
    """Return whether a parameter belongs to the pooler, which the checkpoints of some encoders lack."""
    return "pooler" in name.split(".")


def draw_ids(model: Any, texts: int, tokens: int, *purpose: str) -> Tensor:
    """Return ids (texts, tokens) of random ordinary tokens, seeded by ``purpose``; a text ends with the end token."""
    config = model.config.get_text_config()
    words = getattr(config, "vocab_size", BYTES)
    special = _special(model.config.to_dict())
    ordinary = torch.tensor([number for number in range(words) if number not in special] or [0])
    ids = ordinary[torch.randint(len(ordinary), (texts, tokens), generator=gen(0, *purpose))]
    end = getattr(config, "eos_token_id", None)
    if isinstance(end, int) and 0 <= end < words:
        ids[:, -1] = end
    return ids


def _special(config: dict[str, Any]) -> set[int]:
    """Return the numbers of special tokens in a configuration and its parts, such as those that stand for images."""
    found: set[int] = set()
    for name, value in config.items():
        if isinstance(value, dict):
            found |= _special(value)
        elif str(name).endswith(("_token_id", "_token_index")):
            found |= {number for number in (value if isinstance(value, list) else [value]) if isinstance(number, int)}
    return found


def _name(model: nn.Module, part: nn.Module) -> str:
    found: str = next(name for name, layer in model.named_modules() if layer is part)
    return found
