"""Find the layers of a language model that texts reach: those through which the loss depends on what they compute.

A probe runs the model on a few random tokens. Every layer adds a zero of its own to its output, and a layer whose zero
gets no gradient can learn nothing: the layers of a vision tower, for example, or the keys and values of layers that
take those of another one. A routed layer, such as an expert of a mixture, sees only some of the tokens, or none of this
batch; it counts as reached if any of its siblings is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fedloru.hf.parts import draw_ids
from fedloru.rng import forked

TEXTS, TOKENS = 4, 12


def reached(model: Any, layers: Mapping[str, nn.Linear]) -> set[str]:
    """Return the names of ``layers`` that texts reach; all, if the model cannot be run or no gradient is found.

    The model is not changed.
    """
    ids = draw_ids(model, TEXTS, TOKENS, "reach").to(model.device)
    zeros = {name: torch.zeros((), device=layer.weight.device) for name, layer in layers.items()}
    rows: dict[str, int] = defaultdict(int)
    handles = [layer.register_forward_hook(_adding(name, zeros[name], rows)) for name, layer in layers.items()]
    modes = {layer: layer.training for layer in model.modules()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        _backward(model.eval(), ids, list(zeros.values()))
    except Exception:  # the code of a model may raise anything; the trial before the run reports it
        return set(layers)
    finally:
        for handle in handles:
            handle.remove()
        for parameter in trained:
            parameter.requires_grad_()
        for layer, mode in modes.items():
            layer.training = mode
    found = {name for name, zero in zeros.items() if zero.grad is not None}
    return found | _routed(layers.keys() - found, found, rows) if found else set(layers)


def _adding(name: str, zero: Tensor, rows: dict[str, int]) -> Any:
    def hook(layer: nn.Module, args: Any, output: Tensor) -> Tensor:
        rows[name] += output.shape[:-1].numel()
        return output + zero.to(output.dtype)

    return hook


def _backward(model: Any, ids: Tensor, zeros: list[Tensor]) -> None:
    for zero in zeros:
        zero.requires_grad_()
    with torch.enable_grad(), forked(model.device):
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        torch.autograd.backward(logits.float().sum())


def _routed(others: set[str], found: set[str], rows: Mapping[str, int]) -> set[str]:
    """Return the layers among ``others`` that have a sibling in ``found`` that saw only some of the tokens.

    Siblings are at the same place of modules that a list holds side by side.
    """
    some = {sibling for name in found if rows[name] < TEXTS * TOKENS for sibling in _places(name)}
    return {name for name in others if some & _places(name)}


def _places(name: str) -> set[str]:
    """Return the name with its last index left open, which is that of an expert in a list of experts."""
    parts = name.split(".")
    indices = [at for at, part in enumerate(parts) if part.isdigit()]
    return {".".join([*parts[:at], "*", *parts[at + 1 :]]) for at in indices[-1:]}
