"""Which layers get factors by default: those in which factors save values, except the output layer."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn

from fedloru.lowrank.site import matrix

WORTHWHILE = 0.5
"""The maximum share of a layer's values that its factors may have by default."""


class Choice(str):
    """The reason why a layer that can be adapted stays dense by default."""


OUTPUT = "it is the output layer; it stays dense"


def output_layer(model: nn.Module) -> str | None:
    """Return the name of the last layer of ``model`` with a weight of two or more axes, None if there is none.

    It is found among all layers, because an output layer that cannot be adapted, such as one smaller than the rank,
    does not make the layer before it an output layer.
    """
    names = [name for name, layer in model.named_modules() if getattr(getattr(layer, "weight", None), "ndim", 0) >= 2]
    return names[-1] if names else None


def default_choice(layers: Mapping[str, nn.Module], rank: Callable[[str], int], output: str | None) -> dict[str, str]:
    """Return the layers that stay dense by default, each with the reason.

    The output layer stays dense, as in PEFT, and so does every layer whose factors would have more than half of its
    values. If no layer is left, this is relaxed: to layers whose factors are smaller than the layer, then to all but
    the output layer, then to the output layer.

    Args:
        layers: the layers that can be adapted, by name.
        rank: maps a name to the rank of the factors.
        output: the name of the output layer, which may not be among ``layers``.
    """
    shares = {name: share(layer, rank(name)) for name, layer in layers.items()}
    inner = [name for name in layers if name != output]
    for names, limit in ((inner, WORTHWHILE), (inner, 1.0), (inner, math.inf), (layers, math.inf)):
        if chosen := {name for name in names if shares[name] <= limit}:
            break
    return {name: _reason(shares[name], name == output) for name in layers if name not in chosen}


def default_alpha(rank: int) -> float:
    """Return the default α of a site: twice its rank, so that the scale is 2."""
    return 2.0 * rank


def alphas_of(ranks: Mapping[str, int], alphas: Mapping[str, float], alpha: Callable[[int], float]) -> dict[str, float]:
    """Return α by glob: ``alphas``, preceded by ``alpha`` of each rank in ``ranks``, because the last glob wins."""
    return {glob: alpha(rank) for glob, rank in ranks.items() if glob not in alphas} | dict(alphas)


def globs(chosen: Sequence[str], model: nn.Module) -> list[str]:
    """Return globs that match the layers ``chosen`` and no other: names, with ``*`` for numbers where possible."""
    others = {name for name, layer in model.named_modules() if hasattr(layer, "weight")} - set(chosen)
    short = dict.fromkeys(re.sub(r"\d+", "*", name) for name in chosen)
    exact = {glob for glob in short if not any(fnmatchcase(name, glob) for name in others)}
    return [glob for glob in short if glob in exact] + [
        name for name in chosen if not any(fnmatchcase(name, glob) for glob in exact)
    ]


def share(layer: nn.Module, rank: int) -> float:
    """Return r(o + i) / (o·i), the size of the factors relative to the weight."""
    o, i = matrix(layer.weight.shape)  # type: ignore[arg-type]  # the weight is a tensor
    return rank * (o + i) / (o * i)


def _reason(share: float, output: bool) -> Choice:
    return Choice(OUTPUT if output else f"its factors would have {share:.0%} of its values; it stays dense")
