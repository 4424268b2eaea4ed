"""A copy of a module that need not copy its weights."""

from __future__ import annotations

import copy

from torch import nn


def shallow_copy(model: nn.Module, *, trained: bool = True) -> nn.Module:
    """Return a copy of ``model`` whose frozen parameters lie in the same memory.

    Those that are not frozen are copied, unless ``trained`` is false: then all memory is shared.
    """
    same = {
        id(parameter): nn.Parameter(parameter.detach(), parameter.requires_grad)
        for parameter in model.parameters()
        if not (trained and parameter.requires_grad)
    }
    return copy.deepcopy(model, same)
