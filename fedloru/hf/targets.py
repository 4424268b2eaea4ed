"""The layers of a transformers model that get factors by default: those that the PEFT library adapts.

PEFT maps model types to the names of their target modules, such as q_proj and v_proj. Models of other types get factors
in all linear layers of the body, so not in the output head.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from fedloru.hf.source import library


def usual_targets(model: Any) -> list[str]:
    """Return globs of the layers of ``model`` that get factors by default."""
    table = library("peft.utils.constants").TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
    names = table.get(model.config.model_type)
    linear = {name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    if isinstance(names, list) and any(name.split(".")[-1] in names for name in linear):
        return [f"*.{name}" for name in names]
    body = f"{model.base_model_prefix}."
    return sorted({f"{body}*.{name.split('.')[-1]}" for name in linear if name.startswith(body)})
