"""Copies of a module that share the memory of its weights."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


def shallow_copy(model: nn.Module, *, trained: bool = True) -> nn.Module:
    """Return a copy of ``model`` that shares the memory of its frozen parameters.

    Other parameters are copied, unless ``trained`` is False: then the copy shares the memory of all parameters.
    """
    shared: dict[int, Any] = {
        id(parameter): nn.Parameter(parameter.detach(), parameter.requires_grad)
        for parameter in model.parameters()
        if not (trained and parameter.requires_grad)
    }
    return copy.deepcopy(model, shared | _computed(model))


def _computed(model: nn.Module) -> dict[int, Tensor]:
    """Return detached copies, by id, of tensors that a forward pass has stored in the modules.

    torch copies no such tensor, for example the weight that ``nn.utils.weight_norm`` computes in every forward pass.
    """
    stored = (value for layer in model.modules() for value in tree_leaves(vars(layer)) if isinstance(value, Tensor))
    return {id(value): value.detach().clone() for value in stored if not value.is_leaf}
