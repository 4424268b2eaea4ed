"""What the PEFT library makes of a model: asked of PEFT itself, on a copy of the model without values."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Sequence
from typing import Any

import torch

from fedloru.hf.preparation import on_meta
from fedloru.hf.source import library, quiet

PREFIX = "base_model.model."
"""The prefix of PEFT's keys."""
NAME = re.compile(r"(\.modules_to_save)?\.default(?=\.|$)")
"""What PEFT adds to keys in memory, but not in files."""


def refused(model: Any, layers: Sequence[str]) -> dict[str, str]:
    """Return those of ``layers`` that PEFT does not adapt in a model of this type, each with the reason.

    PEFT refuses some names, takes others for those of experts, and renames some while it loads an adapter.
    """
    if not layers or not _missing(model, layers):
        return {}
    groups: dict[str, list[str]] = {}
    for name in layers:
        groups.setdefault(name.rpartition(".")[2], []).append(name)
    missing = [name for group in groups.values() for name in _missing(model, group)]
    return dict.fromkeys(missing, "PEFT cannot adapt it in a model of this type")


def layout(model: Any, config: Any) -> dict[str, torch.Size]:
    """Return the keys and shapes of the tensors of an adapter that PEFT saves, and loads again, for such a model.

    Raises:
        ValueError: PEFT cannot add such an adapter to the model.
    """
    peft = library("peft")
    with warnings.catch_warnings(), quiet(), torch.device("meta"):
        warnings.simplefilter("ignore")  # PEFT uses names that transformers has deprecated
        own = copy.deepcopy(config)  # PEFT adds to it
        adapted = peft.get_peft_model(on_meta(model), own, low_cpu_mem_usage=True, autocast_adapter_dtype=False)
        saved = peft.get_peft_model_state_dict(adapted, save_embedding_layers=False)
        loaded = peft.set_peft_model_state_dict(adapted, dict(saved), low_cpu_mem_usage=True)
    lost = {NAME.sub("", key) for key in loaded.missing_keys}
    return {key: value.shape for key, value in saved.items() if key not in lost}


def _missing(model: Any, layers: Sequence[str]) -> list[str]:
    """Return those of ``layers`` that PEFT does not adapt if it is asked to adapt them all."""
    try:
        saved = layout(model, library("peft").LoraConfig(target_modules=list(layers)))
    except Exception:  # PEFT raises errors of many types
        return list(layers)
    return [name for name in layers if f"{PREFIX}{name}.lora_A.weight" not in saved]
