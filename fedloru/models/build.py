"""Models by name, with initial weights that depend on the seed alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from inspect import Parameter, signature
from typing import Any

import torch
from torch import nn

from fedloru.errors import ModelError, choices
from fedloru.models.plain import cnn, mlp
from fedloru.models.resnet import resnet
from fedloru.rng import derive

MODELS: dict[str, Callable[..., nn.Module]] = {
    "mlp": mlp,
    "cnn": cnn,
    "resnet8": partial(resnet, 8),
    "resnet10": partial(resnet, 10),
    "resnet18": partial(resnet, 18),
}
"""The built-in models by the name they have in a configuration."""

OWN = "python:"


def build(name: str, *, channels: int, size: int, classes: int, seed: int, **settings: Any) -> nn.Module:
    """Build the model ``name`` for images (b, channels, size, size), or vectors (b, channels) with size 1.

    ``python:package.module:function`` calls a function of the user's with ``settings``, and with those of
    ``channels``, ``size``, ``classes`` and ``in_features`` that it has parameters for. The initial weights are drawn
    by (seed, "model"); the global generator stays as it was.

    Raises:
        ModelError: an unknown model or setting, or a function that is missing or returns no module.
    """
    data = {"channels": channels, "size": size, "classes": classes, "in_features": channels * size * size}
    function = _function(name)
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


def _function(name: str) -> Callable[..., Any]:
    if not name.startswith(OWN):
        if name not in MODELS:
            raise ModelError(f"there is no model {name!r}{choices(name, MODELS)}, and {OWN}package.module:function")
        return MODELS[name]
    place, _, attribute = name.removeprefix(OWN).partition(":")
    if not place or not attribute:
        raise ModelError(f"{name!r} names no function; write {OWN}package.module:function")
    try:
        function = getattr(import_module(place), attribute, None)
    except ImportError as error:
        raise ModelError(f"{name}: the module {place} cannot be imported ({error}); is it on Python's path?") from error
    if not callable(function):
        raise ModelError(f"{name}: the module {place} has no function {attribute}; check its name")
    return function  # type: ignore[no-any-return]


def _check(name: str, parameters: Mapping[str, Parameter], settings: Mapping[str, Any]) -> None:
    """Refuse a setting that the function does not take, and the lack of one that it needs."""
    known = {key: p for key, p in parameters.items() if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for key in settings.keys() - known.keys():
            raise ModelError(f"the model {name} has no setting {key!r}{choices(key, known)}")
    for key, parameter in known.items():
        if parameter.default is parameter.empty and key not in settings:
            raise ModelError(f"the model {name} needs the setting {key!r}; set model.{key}")
