"""Caveats for the curvature of a model: batch normalization, dropout, and functions that are not smooth."""

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
"""Names of torch functions whose derivative is discontinuous."""

CHECK_EXAMPLES, CHECK_TOLERANCE = 8, 1e-3
"""The batch size, and the relative difference in losses, of the check that examples do not affect each other."""


def cautions(o: Objective) -> list[str]:
    """Return the caveats that apply to the results for ``o``, one sentence each.

    Raises:
        ModelError: a BatchNorm layer has no running statistics or untrained ones, or the loss of an example depends on
            the other examples in its batch.
    """
    found = [*_batch_norm(o.model), *_dropout(o.model), *_kinks(o)]
    _check_independent(o)
    return found


@torch.no_grad()
def _check_independent(o: Objective) -> None:
    """Raise if the losses of examples change with the number of examples in the batch."""
    batch = next(batches(o._replace(batch_size=CHECK_EXAMPLES)))
    half = {key: value[: CHECK_EXAMPLES // 2] for key, value in batch.items()}
    in_batch, in_half = losses(o, o.params, batch)[: CHECK_EXAMPLES // 2], losses(o, o.params, half)
    tolerance = max(CHECK_TOLERANCE, 10 * torch.finfo(in_batch.dtype).eps)
    if float((in_batch - in_half).norm()) > tolerance * float(in_batch.norm()):
        raise ModelError(
            "the loss of an example depends on the other examples in its batch, as with BatchNorm in training mode, so "
            "results would depend on the batch size. Use running statistics in evaluation mode, or GroupNorm"
        )


def _batch_norm(model: nn.Module) -> Iterator[str]:
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, _BatchNorm)}
    for name, layer in layers.items():
        if layer.running_mean is None or layer.running_var is None:
            raise ModelError(
                f"{name} is a BatchNorm layer without running statistics, so the loss of an example depends on its "
                "batch. Set track_running_stats=True, or use GroupNorm"
            )
        if not layer.running_mean.any() and bool((layer.running_var == 1).all()):
            raise ModelError(
                f"{name} is a BatchNorm layer with untrained statistics (mean 0, variance 1): in evaluation mode the "
                "model differs from the one that clients train. Train for at least one round first, or use GroupNorm"
            )
    if layers:
        yield "BatchNorm uses running statistics here, as in evaluation; clients train with batch statistics."


def _dropout(model: nn.Module) -> Iterator[str]:
    if any(isinstance(layer, _DropoutNd) and layer.p > 0 for layer in model.modules()):
        yield "Dropout is disabled: results are for the model in evaluation mode, not as clients train it."


def _kinks(o: Objective) -> Iterator[str]:
    recorder = _CallRecorder()
    with torch.no_grad(), recorder:
        losses(o, o.params, next(batches(o._replace(batch_size=1))))
    if kinked := sorted({name.rstrip("_") for name in recorder.names & KINKED}):
        yield (
            f"The model is only piecewise smooth ({', '.join(kinked)}): derivatives are those of the smooth pieces, "
            "and curvature at the kinks between them is not measured."
        )


class _CallRecorder(TorchFunctionMode):
    """Records the names of the torch functions that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(getattr(func, "__name__", ""))
        return func(*args, **(kwargs or {}))
