"""The layers of a transformers model that get factors by default.

They are the layers that the PEFT library adapts, such as q_proj and v_proj, or, for model types that PEFT does not
know, all linear layers of the body. Layers that texts do not reach, that PEFT refuses to adapt, or that are a vector
are left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from fnmatch import fnmatchcase
from itertools import takewhile
from typing import Any, NamedTuple

from torch import nn

from fedloru.hf.parts import in_body
from fedloru.hf.peft import refused
from fedloru.hf.reach import reached
from fedloru.hf.source import library
from fedloru.lowrank.layers import LowRankLinear


class Targets(NamedTuple):
    """Globs of the layers that get factors, and the layers that are left out, by glob, each with the reason."""

    globs: list[str]
    left_out: dict[str, str]


def usual_targets(model: Any) -> list[str]:
    """Return globs of the layers of ``model`` that get factors by default."""
    return default_targets(model).globs


def default_targets(model: Any) -> Targets:
    """Return the layers of ``model`` that get factors by default, and those that are left out."""
    linear = {name: layer for name, layer in model.named_modules() if type(layer) in (nn.Linear, LowRankLinear)}
    usual = _known(model.config.model_type) or in_body(model)
    named = {name: layer for name, layer in linear.items() if usual(name)}
    if not named:
        is_body = in_body(model)
        named = {name: layer for name, layer in linear.items() if is_body(name)}
    reasons = {name: "its weight is a vector" for name, layer in named.items() if min(layer.weight.shape) < 2}
    rest = _without(named, reasons)
    unreached = rest.keys() - reached(model, rest)
    reasons |= dict.fromkeys(unreached, "no text depends on what it computes, so it would learn nothing")
    reasons |= refused(model, [name for name in named if name not in reasons])
    globs = _globs([name for name in named if name not in reasons], linear)
    return Targets(globs, _grouped(reasons, linear) | _stacked(model))


def _known(model_type: str) -> Callable[[str], bool] | None:
    """Return whether PEFT adapts a layer of models of this type by default; None if PEFT does not know the type."""
    names = library("peft.utils.constants").TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(model_type)
    if isinstance(names, str):
        return lambda name: bool(re.fullmatch(names, name))
    return None if names is None else lambda name: name.split(".")[-1] in names


def _without(layers: Mapping[str, nn.Linear], names: Collection[str]) -> dict[str, nn.Linear]:
    return {name: layer for name, layer in layers.items() if name not in names}


def _globs(chosen: Collection[str], layers: Collection[str]) -> list[str]:
    """Return globs that match exactly the ``chosen`` names among ``layers``, one for each last name where possible."""
    globs: list[str] = []
    for last in sorted({_last(name) for name in chosen}):
        wanted = {name for name in chosen if _last(name) == last}
        short = (f"*.{last}", f"{_shared(wanted)}.*.{last}")
        fitting = [glob for glob in short if _matching(glob, layers) == wanted]
        globs += fitting[:1] or _opened(wanted, layers)
    return globs


def _opened(names: Collection[str], layers: Collection[str]) -> list[str]:
    """Return the names with open indices where these match none of the other ``layers``, and the plain names else."""
    opened = {name: re.sub(r"(?<=\.)\d+(?=\.)", "*", name) for name in names}
    return sorted({glob if _matching(glob, layers) <= {*names} else name for name, glob in opened.items()})


def _matching(glob: str, layers: Iterable[str]) -> set[str]:
    return {name for name in layers if fnmatchcase(name, glob)}


def _shared(names: Iterable[str]) -> str:
    """Return the first modules that all names have in common."""
    columns = zip(*(name.split(".")[:-1] for name in names), strict=False)
    return ".".join(column[0] for column in takewhile(lambda column: len({*column}) == 1, columns))


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _grouped(reasons: Mapping[str, str], layers: Collection[str]) -> dict[str, str]:
    """Return the reasons by glob instead of by layer."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        by_reason.setdefault(reason, []).append(name)
    return {glob: reason for reason, names in by_reason.items() for glob in _opened(names, layers)}


def _stacked(model: nn.Module) -> dict[str, str]:
    """Return the weights of three axes that belong to no layer of torch, such as those of all experts of a mixture."""
    names = [
        f"{prefix}.{name}"
        for prefix, layer in model.named_modules()
        if not type(layer).__module__.startswith("torch.")
        for name, parameter in layer._parameters.items()
        if parameter is not None and parameter.ndim == 3 and len(parameter) > 1
    ]
    reason = "a weight of three axes, such as that of all experts of a mixture, is no linear layer; it stays frozen"
    return _grouped(dict.fromkeys(names, reason), names)
