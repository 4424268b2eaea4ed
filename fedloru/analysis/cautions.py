"""What a reader of a model's curvature should know about the model: normalisation, dropout and kinks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.overrides import TorchFunctionMode

from fedloru.analysis.objective import Objective, batches, losses
from fedloru.errors import ModelError

KINKED = frozenset(
    {"relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "prelu", "hardtanh", "hardswish", "hardsigmoid"}
    | {"abs", "clamp", "clamp_", "clip", "maximum", "minimum", "threshold", "softshrink", "hardshrink"}
    | {f"{kind}max_pool{d}d" for kind in ("", "adaptive_") for d in (1, 2, 3)}
)
"""Functions of torch, by name, whose derivative jumps."""

FEW, SAME = 8, 1e-3
"""So many examples, and half of them, show whether examples change each other's losses, by more than this share."""


def cautions(o: Objective) -> list[str]:
    """Return what to keep in mind about the figures of ``o``, a sentence each.

    Raises:
        ModelError: its BatchNorm has no statistics, or untrained ones, or examples change each other's losses.
    """
    found = [*_normalisation(o.model), *_dropout(o.model), *_kinks(o)]
    _check_alone(o)
    return found


@torch.no_grad()
def _check_alone(o: Objective) -> None:
    """Refuse a model that makes something else of examples when there are fewer of them."""
    batch = next(batches(o._replace(batch_size=FEW)))
    half = {key: value[: FEW // 2] for key, value in batch.items()}
    together, fewer = losses(o, o.params, batch)[: FEW // 2], losses(o, o.params, half)
    rounding = max(SAME, 10 * torch.finfo(together.dtype).eps)
    if float((together - fewer).norm()) > rounding * float(together.norm()):
        raise ModelError(
            "the loss of an example changes with the others in its batch, as under BatchNorm in training mode: the "
            "figures would be of the batches, and of no one's data. Let the model normalise by running statistics in "
            "evaluation mode, or use GroupNorm"
        )


def _normalisation(model: nn.Module) -> Iterator[str]:
    found = {name: layer for name, layer in model.named_modules() if isinstance(layer, _BatchNorm)}
    for name, layer in found.items():
        if layer.running_mean is None or layer.running_var is None:
            raise ModelError(
                f"{name} is a BatchNorm without running statistics, so the loss of an example depends on its batch "
                "and has no curvature of its own: let it track them, or use GroupNorm"
            )
        if not layer.running_mean.any() and bool((layer.running_var == 1).all()):
            raise ModelError(
                f"{name} is a BatchNorm whose statistics are untrained (mean 0, variance 1): in evaluation mode this "
                "is another model than clients train. Train it for a round or more first, or use GroupNorm"
            )
    if found:
        yield "BatchNorm normalises by running statistics here, as in evaluation; clients train with their batches'."


def _dropout(model: nn.Module) -> Iterator[str]:
    if any(isinstance(layer, _DropoutNd) and layer.p > 0 for layer in model.modules()):
        yield "Dropout is switched off here: the figures are of the model that is evaluated, not of what clients train."


def _kinks(o: Objective) -> Iterator[str]:
    called = _Called()
    with torch.no_grad(), called:
        losses(o, o.params, next(batches(o._replace(batch_size=1))))
    if kinked := sorted({name.rstrip("_") for name in called.names & KINKED}):
        yield (
            f"The model has kinks ({', '.join(kinked)}): derivatives are those of the smooth pieces between them, and "
            "curvature that sits in the kinks is not seen."
        )


class _Called(TorchFunctionMode):
    """Takes down the names of the functions of torch that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(getattr(func, "__name__", ""))
        return func(*args, **(kwargs or {}))
