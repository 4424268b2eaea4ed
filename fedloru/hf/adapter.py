"""Export the learned update of a net as one adapter of the PEFT library, for the unchanged base.

The increments of all merges and the current factors are concatenated along the rank, [s₁B₁ … s_jB_j] and [A₁; …; A_j],
with lora_alpha = r so that PEFT's own scale is 1. FedLoRU merges low-rank updates into the model, but the sum of these
updates is still an adapter: of rank j·r, or truncated to a given rank by an SVD (LoRA: Hu et al. 2022, arXiv
2106.09685).
"""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor, nn

from fedloru import lowrank, tree
from fedloru.errors import ModelError
from fedloru.files import write_atomic
from fedloru.hf.base import Base, base, body_hash, weights
from fedloru.hf.export import save_tokenizer
from fedloru.hf.models import SHOWN
from fedloru.hf.parts import is_classifier
from fedloru.hf.peft import PREFIX, layout
from fedloru.hf.preparation import transposed
from fedloru.hf.source import Source, library, loading
from fedloru.lowrank import Increment, Site
from fedloru.net import Net
from fedloru.tree import Params

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
HEADS = ("classifier", "score")
"""The names of classification heads; PEFT always saves a copy of them with the adapter."""
USE_MERGED = "export the merged model instead, with the format merged"


class Adapter(NamedTuple):
    """An exported adapter, loaded again by PEFT.

    ``tensors`` are those with which the net must give the same scores. ``base`` describes the base, ``ranks`` are the
    ranks of the adapted weights, and ``errors`` the relative errors of a truncation, by weight.
    """

    model: Any
    tensors: Params
    base: dict[str, Any]
    ranks: dict[str, int]
    errors: dict[str, float]


def save_adapter(
    net: Net,
    tensors: Params,
    increments: Sequence[Increment],
    folder: Path,
    rank: int | None = None,
    named: str | None = None,
) -> Adapter:
    """Write the difference of ``tensors`` and the base as an adapter, and load it again with the base.

    The tokenizer of the base is saved with it. ``named`` is the name of the base in the files of the adapter; by
    default a name on the hub, or the absolute path of a folder.

    ``increments`` are all increments in the order of their merges. ``rank`` is the highest rank of the adapter of any
    weight; if None, the adapter is exact.

    Raises:
        ModelError: weights other than increments, factors and heads have changed, or nothing has.
    """
    origin = base(net)
    model = origin.load()
    start = weights(model)
    _check_frozen(net, tensors, start, increments, origin)
    live = lowrank.increment(net.sites, tensors)
    whole = lowrank.combine([*increments, live])
    if not whole.sites:
        raise ModelError(
            f"the model does not differ from {origin.place.name} yet, so there is no adapter: train it first"
        )
    truncated, errors = (whole, {}) if rank is None else lowrank.truncate_increment(whole, rank)
    config = _config(net, truncated.sites, origin, named)
    keys = _dense_keys(net, truncated.sites, config)
    dense = tree.select(tensors, keys)
    _write(folder, truncated, dense, config, net)
    save_tokenizer(net.model, folder)
    loaded = _load(model, folder)
    ranks = {site.weight: site.rank for site in truncated.sites}
    padding = model.config.get_text_config().pad_token_id if origin.task == "classify" else None
    description = (
        origin.table
        | _named(origin, named)
        | {"hash": body_hash(net, start), "classes": list(origin.classes), "pad": padding}
    )
    return Adapter(loaded, _merged(net, start, truncated, dense), description, ranks, errors)


def _load(model: Any, folder: Path) -> Any:
    with loading(Source(str(folder)), "the adapter"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT uses names that transformers has deprecated
        return library("peft").PeftModel.from_pretrained(model, folder).eval()


def _check_frozen(net: Net, tensors: Params, start: Params, increments: Sequence[Increment], origin: Base) -> None:
    """Raise ModelError unless the frozen weights are W₀ with all increments merged, bit for bit."""
    name = origin.place.name
    if not net.sites:
        raise ModelError(f"the method trains whole weights, so the update is not a low-rank adapter: {USE_MERGED}")
    for sites, factors in increments:
        start = lowrank.merge(sites, start, factors)
    frozen = net.params.keys() - net.trainable - net.factors
    changed = [key for key in sorted(frozen) if not tree.equal({"": start[key]}, {"": tensors[key]})]
    if changed:
        more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
        raise ModelError(
            f"the weights are not those of {name} with the {len(increments)} increments merged: the method changes "
            f"weights in another way, or the base has changed. They differ in {', '.join(changed[:SHOWN])}{more}. To "
            f"export this model, {USE_MERGED}"
        )


def adapter_problem(net: Net) -> str | None:
    """Return why the learned update of ``net`` cannot be exported as an adapter; None if it can.

    Whether the method changes other weights is not known before training.
    """
    if not net.sites:
        return None
    try:
        config = _config(net, net.sites, base(net), None)
        _dense_keys(net, net.sites, config)
    except ModelError as error:
        return str(error)
    return None


def _heads(net: Net, sites: Iterable[Site]) -> list[str]:
    """Return the names of the modules that are trained whole, and of the heads that PEFT always saves."""
    names = [name for name, _ in net.model.named_modules()]
    known = [name for name in names if is_classifier(net.model) and name.split(".")[-1] in HEADS]
    owners = {key.rpartition(".")[0] for key in net.trainable - net.factors}
    heads = known + sorted(owner for owner in owners if not any(_is_in(owner, head) for head in known))
    if both := [head for head in heads if any(_is_in(site.weight, head) for site in sites)]:
        raise ModelError(
            f"{both[0] or 'the model'} is trained whole and also has factors, which PEFT does not support: {USE_MERGED}"
        )
    return heads


def _is_in(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.") or not module


def _config(net: Net, sites: Sequence[Site], origin: Base, named: str | None) -> Any:
    """Return PEFT's configuration of the adapter, with full layer names and a scale of 1 for every layer."""
    ranks = {_layer(site): site.rank for site in sites}
    usual = Counter(ranks.values()).most_common(1)[0][0]
    others = {name: rank for name, rank in ranks.items() if rank != usual}
    conv1d = set(transposed(net.model))
    return library("peft").LoraConfig(
        task_type="SEQ_CLS" if origin.task == "classify" else "CAUSAL_LM",
        base_model_name_or_path=_named(origin, named)["name"],
        revision=_named(origin, named)["revision"],
        inference_mode=True,
        r=usual,
        lora_alpha=usual,
        rank_pattern=others,
        alpha_pattern=others,
        target_modules=sorted(ranks),
        modules_to_save=_heads(net, sites) or None,
        fan_in_fan_out=any(site.weight in conv1d for site in sites),
    )


def _dense_keys(net: Net, sites: Sequence[Site], config: Any) -> list[str]:
    """Return the keys of the weights that PEFT saves whole in an adapter with ``config``.

    PEFT decides by the ends of names: for the head ``classifier``, it also saves a ``pre_classifier``.

    Raises:
        ModelError: PEFT refuses the adapter, or would not save what was trained.
    """
    try:
        saved = layout(net.model, config)
    except Exception as error:  # PEFT raises errors of many types
        raise ModelError(
            f"PEFT refuses the adapter: {' '.join(str(error).split())} Choose other targets, or {USE_MERGED}"
        ) from error
    factors = {site.weight: _peft_factors(net, site, _empty(site)).keys() for site in sites}
    named = {key for keys in factors.values() for key in keys}
    dense = {key.removeprefix(PREFIX): shape for key, shape in saved.items() if key not in named}
    lost = {weight for weight, keys in factors.items() if not keys <= saved.keys()}
    lost |= net.trainable - net.factors - dense.keys()
    lost |= {key for key, shape in dense.items() if key not in net.params or net.params[key].shape != shape}
    if lost:
        more = f" and {len(lost) - SHOWN} more" if len(lost) > SHOWN else ""
        raise ModelError(
            f"PEFT would save other weights than those that are trained ({', '.join(sorted(lost)[:SHOWN])}{more}): "
            f"choose other targets, or {USE_MERGED}"
        )
    return sorted(dense)


def _named(origin: Base, named: str | None) -> dict[str, str | None]:
    """Return the name of the base, with which it is found from any folder, and its revision."""
    place = origin.place
    if named is None or named == place.name:
        return {"name": str(Path(place.name).resolve()) if place.is_folder else place.name, "revision": place.revision}
    return {"name": named, "revision": None}


def _layer(site: Site) -> str:
    return site.weight.removesuffix(".weight")


def _write(folder: Path, adapter: Increment, dense: Mapping[str, Tensor], config: Any, net: Net) -> None:
    named = {f"{PREFIX}{key}": value for key, value in dense.items()}
    for site in adapter.sites:
        named |= _peft_factors(net, site, adapter.factors)
    tensors = {key: value.detach().clone().contiguous() for key, value in named.items()}
    settings = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    write_atomic(folder / CONFIG, json.dumps(settings, indent=2, sort_keys=True).encode())
    write_atomic(folder / WEIGHTS, safetensors.torch.save(tensors, {"format": "pt"}))


def _peft_factors(net: Net, site: Site, factors: Params) -> Params:
    """Return the factors under PEFT's names; those of an embedding are transposed and swapped."""
    name, a, b = f"{PREFIX}{_layer(site)}", factors[site.a], factors[site.b]
    if isinstance(net.model.get_submodule(_layer(site)), nn.Embedding):
        return {f"{name}.lora_embedding_A": b.T, f"{name}.lora_embedding_B": a.T}
    return {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}


def _empty(site: Site) -> Params:
    shapes = {site.a: site.a_shape(), site.b: site.b_shape()}
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


def _merged(net: Net, start: Params, adapter: Increment, heads: Params) -> Params:
    """Return W₀ + BA in float32 or wider, not rounded to the dtype of the weights, with all factors set to 0."""
    wide = tree.map(lambda t: t.to(torch.promote_types(t.dtype, torch.float32)), start | heads)
    zeros = tree.map(torch.zeros_like, tree.select(net.params, net.factors))
    return lowrank.merge(adapter.sites, wide, adapter.factors) | zeros
