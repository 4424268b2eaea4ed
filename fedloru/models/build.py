"""Create a model by name, with initial weights that depend only on the seed."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import Parameter, signature
from typing import Any

import torch
from torch import nn

from fedloru.errors import ModelError, choices
from fedloru.models.catalogue import FROM_DATA, MODELS
from fedloru.rng import derive
from fedloru.settings.declaration import is_reserved


def build(name: str, *, channels: int, size: int, classes: int, seed: int, **settings: Any) -> nn.Module:
    """Build the model ``name`` for images (b, channels, size, size), or for vectors (b, channels) with size 1.

    ``python:package.module:function`` calls your function with ``settings``, and with those of ``channels``, ``size``,
    ``classes``, ``in_features`` and ``seed`` for which it has parameters. The initial weights are drawn from
    (seed, "model"); the state of the global generator does not change.

    Raises:
        ModelError: the model or a setting is unknown, a setting is missing, or the function is missing or does not
            return a module.
    """
    data = dict(zip(FROM_DATA, (channels, size, classes, channels * size * size), strict=True)) | {"seed": seed}
    function = MODELS.find(name)
    parameters = signature(function).parameters
    given = {key: value for key, value in data.items() if key in parameters}
    _check(name, {key: p for key, p in parameters.items() if key not in given}, settings)
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would reseed the accelerators' generators as well.
        torch.default_generator.manual_seed(derive(seed, "model"))
        model = function(**given, **settings)
    if not isinstance(model, nn.Module):
        raise ModelError(f"{name} returned {type(model).__name__}, not a torch.nn.Module; return the model itself")
    return model


def _check(name: str, parameters: Mapping[str, Parameter], settings: Mapping[str, Any]) -> None:
    """Raise ``ModelError`` for a setting that the function does not take, or that it requires and is missing."""
    known = {key: p for key, p in parameters.items() if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for key in settings.keys() - known.keys():
            raise ModelError(f"the model {name} has no setting {key!r}{choices(key, known)}")
    for key, parameter in known.items():
        if parameter.default is not parameter.empty or key in settings:
            continue
        if key == "name" or is_reserved(key):
            raise ModelError(f"{name} requires the parameter {key!r}, but no setting can have this name: rename it")
        raise ModelError(f"the model {name} needs the setting {key!r}; set model.{key}")
