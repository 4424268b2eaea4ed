"""Replace the layers that match a glob by low-rank layers, and turn them back into plain layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple, TypeVar

from torch import Tensor, nn

from fedloru.errors import ModelError
from fedloru.lowrank.algebra import delta
from fedloru.lowrank.choice import default_alpha, default_choice, output_layer
from fedloru.lowrank.copying import shallow_copy
from fedloru.lowrank.layers import (
    Adaptable,
    LowRank,
    LowRankConv2d,
    LowRankEmbedding,
    LowRankLinear,
    adapt,
    restore,
    why_not,
)
from fedloru.lowrank.site import Site, check_rank, refuse_ranks

Number = TypeVar("Number", int, float)


class Attached(NamedTuple):
    """A copy of a model with low-rank layers, and the matching layers that stay dense, each with the reason."""

    model: nn.Module
    skipped: dict[str, str]


def attach(
    model: nn.Module,
    *,
    rank: int = 8,
    alpha: float | None = None,
    targets: Sequence[str] | None = None,
    ranks: Mapping[str, int] | None = None,
    alphas: Mapping[str, float] | None = None,
    dropout: float = 0.0,
) -> Attached:
    """Replace linear, convolution and embedding layers by low-rank layers.

    ``targets`` are globs of layer names; by default, they are the layers of ``default_choice``. ``ranks`` and
    ``alphas`` map globs to the rank and α of individual sites; the last matching glob wins. The scale is α/r; α
    defaults to twice the rank. A layer that is too small for ``rank`` stays dense. ``model`` is not modified. The copy
    shares the memory of its frozen weights (``requires_grad=False``).

    Raises:
        ModelError: no layer matches or is large enough, or a rank in ``ranks`` exceeds min(o, i) of its weight; the
            message names all such sites.
    """
    if isinstance(targets, str):
        raise ModelError(f"targets is the string {targets!r}, but a list of globs is expected: [{targets!r}]")
    copied = shallow_copy(model)
    found = {n: m for n, m in copied.named_modules() if isinstance(m, Adaptable) and not isinstance(m, LowRank)}
    matching = {n: m for n, m in found.items() if any(fnmatchcase(n, glob) for glob in targets or ("*",))}
    settings: dict[str, Mapping[str, float]] = {"ranks": ranks or {}, "alphas": alphas or {}}
    _check_globs(settings, matching)
    skipped = {n: reason for n, m in matching.items() if (reason := _unsupported(copied, m))}
    skipped |= _too_small(_without(matching, skipped), rank, ranks)
    if not (chosen := _without(matching, skipped)):
        raise ModelError(_no_site_message(targets, found, skipped))
    if targets is None:
        skipped |= default_choice(chosen, lambda name: _setting(name, ranks, rank), output_layer(copied))
        chosen = _without(matching, skipped)
        _check_globs(settings, chosen)  # a run records the chosen layers as targets, and must resume with them
    for name, layer in chosen.items():
        site_rank = _setting(name, ranks, rank)
        site_alpha = _setting(name, alphas, default_alpha(site_rank) if alpha is None else alpha)
        new = adapt(layer, site_rank, site_alpha / site_rank, dropout)
        if not name:  # the model is a single layer
            return Attached(new, skipped)
        copied.set_submodule(name, new)
    _call_layers(copied)
    return Attached(copied, skipped)


def sites(model: nn.Module) -> tuple[Site, ...]:
    """Return the sites of ``model``, in module order."""
    return tuple(
        Site(
            weight=_key(name, "weight"),
            a=_key(name, "a"),
            b=_key(name, "b"),
            shape=tuple(layer.weight.shape),
            rank=layer.a.shape[0],
            scale=layer.scale,
        )
        for name, layer in model.named_modules()
        if isinstance(layer, LowRankLinear | LowRankConv2d | LowRankEmbedding)
    )


def detach(model: nn.Module) -> nn.Module:
    """Return a copy of ``model`` with plain layers whose weights are W + s·BA."""
    copied = shallow_copy(model)
    params: dict[str, Tensor] = {name: p.detach() for name, p in copied.named_parameters()}
    for site in sites(copied):
        name = site.weight.removesuffix("weight").removesuffix(".")
        weight = params[site.weight]
        change = delta(site, params)
        layer = copied.get_submodule(name)
        assert isinstance(layer, LowRank)
        plain = restore(layer, (weight.to(change.dtype) + change).to(weight.dtype))
        if not name:
            return plain
        copied.set_submodule(name, plain)
    return copied


def _key(layer: str, part: str) -> str:
    return f"{layer}.{part}" if layer else part


def _without(layers: Mapping[str, Adaptable], skipped: Mapping[str, str]) -> dict[str, Adaptable]:
    return {name: layer for name, layer in layers.items() if name not in skipped}


def _too_small(layers: Mapping[str, Adaptable], rank: int, ranks: Mapping[str, int] | None) -> dict[str, str]:
    """Return the layers that are too small for ``rank``, with the reason.

    Raises:
        ModelError: a rank in ``ranks`` is out of range for its layer; all such layers are listed.
    """
    small, refused = {}, []
    for name, layer in layers.items():
        problem = check_rank(layer.weight.shape, _setting(name, ranks, rank))
        if problem and any(fnmatchcase(name, glob) for glob in ranks or {}):
            refused.append(f"{_key(name, 'weight')}: {problem}")
        elif problem:
            small[name] = f"{problem}; it stays dense"
    refuse_ranks(sorted(refused))
    return small


def _check_globs(settings: Mapping[str, Mapping[str, float]], chosen: Mapping[str, nn.Module]) -> None:
    idle = [
        f"{glob!r} in {name}"
        for name, globs in settings.items()
        for glob in globs
        if not any(fnmatchcase(layer, glob) for layer in chosen)
    ]
    if idle and chosen:
        raise ModelError(f"{', '.join(idle)} matches no layer that gets factors; these do: {', '.join(chosen)}")


def _call_layers(model: nn.Module) -> None:
    """Disable torch's fast path for encoder layers, which reads the weights of layers instead of calling them."""
    for parent in model.modules():
        if any(isinstance(layer, LowRank) for layer in parent.modules()):
            if isinstance(parent, nn.TransformerEncoderLayer):
                parent.activation_relu_or_gelu = 0
            elif isinstance(parent, nn.TransformerEncoder):
                parent.use_nested_tensor = False


def _unsupported(model: nn.Module, layer: Adaptable) -> str | None:
    if reason := why_not(layer):
        return f"{reason}; it stays dense"
    if isinstance(layer, nn.Conv2d) and layer.groups != 1:
        return f"a convolution with {layer.groups} groups has no k×k plus 1×1 factorization; it stays dense"
    if isinstance(layer, nn.Embedding) and (layer.max_norm is not None or layer.sparse or layer.scale_grad_by_freq):
        return "an embedding with max_norm, scaled gradients or sparse gradients is not supported; it stays dense"
    owners = [n for n, p in model.named_parameters(remove_duplicate=False) if p is layer.weight]
    if len(owners) > 1:
        return f"its weight is tied ({' = '.join(owners)}), so an increment would change all its owners; it stays dense"
    return None


def _no_site_message(targets: Sequence[str] | None, found: Mapping[str, nn.Module], skipped: Mapping[str, str]) -> str:
    globs = ", ".join(repr(t) for t in targets or ("*",))
    if skipped:
        reasons = "; ".join(f"{name or 'the model'}: {reason}" for name, reason in skipped.items())
        return f"no layer that matches {globs} can be adapted ({reasons}). Lower the rank, or choose other targets"
    if not found:
        return "the model has no Linear, Conv2d or Embedding layer to attach low-rank factors to"
    return f"no layer matches {globs}; the layers that can be adapted are {', '.join(found)}"


def _setting(name: str, patterns: Mapping[str, Number] | None, default: Number) -> Number:
    matches = [value for glob, value in (patterns or {}).items() if fnmatchcase(name, glob)]
    return matches[-1] if matches else default
