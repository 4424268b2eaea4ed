"""Find the layers of a language model that texts reach: those through which the loss depends on what they compute.

A probe runs the model on a few random tokens. A zero is added to the output of every layer, and a layer whose zero gets
no gradient can learn nothing: the layers of a vision tower, for example, or the keys and values of layers that
take those of another one. A routed layer, such as an expert of a mixture, sees only some of the tokens, or none of this
batch; it counts as reached if any of its siblings is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fedloru.hf.parts import draw_ids
from fedloru.lowrank import shallow_copy
from fedloru.rng import forked

TEXTS, TOKENS = 4, 12


def reached(model: Any, layers: Iterable[str]) -> set[str]:
    """Return the names of ``layers`` that texts reach; all, if the model cannot be run or no gradient is found."""
    names = {*layers}
    copied: Any = shallow_copy(model, trained=False).eval().requires_grad_(False)
    zeros = {name: torch.zeros((), device=model.device, requires_grad=True) for name in names}
    rows: dict[str, int] = defaultdict(int)
    for name in names:
        copied.get_submodule(name).register_forward_hook(_adding(name, zeros[name], rows))
    ids = draw_ids(model, TEXTS, TOKENS, "reach").to(model.device)
    try:
        with torch.enable_grad(), forked(model.device):
            logits = copied(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
            torch.autograd.backward(logits.float().sum())
    except Exception:  # the code of a model may raise anything; the trial before the run reports it
        return names
    found = {name for name in names if zeros[name].grad is not None}
    return found | _routed(names - found, found, rows) if found else names


def _adding(name: str, zero: Tensor, rows: dict[str, int]) -> Any:
    def hook(layer: nn.Module, args: Any, output: Tensor) -> Tensor:
        rows[name] += output.shape[:-1].numel()
        return output + zero.to(output)

    return hook


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
