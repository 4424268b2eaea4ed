"""Copies of a module that share the memory of its weights."""

from __future__ import annotations

import copy

from torch import nn


def shallow_copy(model: nn.Module, *, trained: bool = True) -> nn.Module:
    """Return a copy of ``model`` that shares the memory of its frozen parameters.

    Other parameters are copied, unless ``trained`` is False: then the copy shares the memory of all parameters.
    """
    shared = {
        id(parameter): nn.Parameter(parameter.detach(), parameter.requires_grad)
        for parameter in model.parameters()
        if not (trained and parameter.requires_grad)
    }
    return copy.deepcopy(model, shared)
