"""What a net has learnt as one adapter of the PEFT library, for the untouched base.

The increments of all cycles and the live factors stand rank beside rank, [s₁B₁ … s_jB_j] and [A₁; …; A_j], with
lora_alpha = r so that PEFT's own scale is 1. FedLoRU merges low-rank updates into the model, but what it has learnt
*is* an adapter: of rank j·r, or cut to a rank by an SVD (LoRA: Hu et al. 2022, arXiv 2106.09685).
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
from fedloru.hf.models import SHOWN, transposed
from fedloru.hf.source import Source, library, told
from fedloru.lowrank import Increment, Site
from fedloru.net import Net
from fedloru.tree import Params

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
"""What PEFT's keys begin with."""
HEADS = ("classifier", "score")
"""The names of heads of classifiers, of which PEFT always keeps a copy in the adapter."""
MERGED = "export the merged model, with the format merged"


class Adapter(NamedTuple):
    """An adapter as PEFT loads it beside its base, the tensors that a net computes the same with, and what is told.

    ``errors`` are the relative errors of a truncation, by weight.
    """

    model: Any
    tensors: Params
    base: dict[str, Any]
    ranks: dict[str, int]
    errors: dict[str, float]


def save_adapter(
    net: Net, tensors: Params, increments: Sequence[Increment], folder: Path, rank: int | None = None
) -> Adapter:
    """Write what ``tensors`` have beyond the base as an adapter, and load it again beside the base.

    ``increments`` are all that was merged, in order. With ``rank``, no weight has an adapter of a higher one.

    Raises:
        ModelError: something else than increments, factors and heads has changed, or nothing has.
    """
    origin = base(net)
    model = origin.load()
    start = weights(model)
    _check_sum(net, tensors, start, increments, origin)
    live = lowrank.increment(net.sites, tensors)
    whole = lowrank.together([*increments, live])
    if not whole.sites:
        raise ModelError(f"the model has no factors beyond {origin.place.name} yet, so there is no adapter: train it")
    short, errors = (whole, {}) if rank is None else lowrank.shortened(whole, rank)
    heads = _heads(net, whole.sites, origin)
    kept = {key: tensors[key] for key, _ in net.model.named_parameters() if any(_is_in(key, head) for head in heads)}
    _write(folder, short, kept, _config(net, short.sites, heads, origin), net)
    loaded = _load(model, folder)
    ranks = {site.weight: site.rank for site in short.sites}
    padding = model.config.get_text_config().pad_token_id if origin.task == "classify" else None
    known = origin.table | {"hash": body_hash(net, start), "classes": list(origin.classes), "pad": padding}
    return Adapter(loaded, _computed(net, start, short, kept), known, ranks, errors)


def _load(model: Any, folder: Path) -> Any:
    with told(Source(str(folder)), "the adapter"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT calls what transformers is about to rename
        return library("peft").PeftModel.from_pretrained(model, folder).eval()


def _check_sum(net: Net, tensors: Params, start: Params, increments: Sequence[Increment], origin: Base) -> None:
    """Refuse frozen weights that are not W₀ and the increments, bit for bit."""
    name = origin.place.name
    if not net.sites:
        raise ModelError(f"the method trains whole weights, whose change is no adapter of low rank: {MERGED}")
    for sites, factors in increments:
        start = lowrank.merge(sites, start, factors)
    frozen = net.params.keys() - net.trainable - net.factors
    changed = [key for key in sorted(frozen) if not tree.equal({"": start[key]}, {"": tensors[key]})]
    if changed:
        more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
        raise ModelError(
            f"the weights are not those of {name} and the {len(increments)} increments that were merged: the method "
            f"changes them in another way, or the base was changed. To take the model home as it is, {MERGED}. They "
            f"differ in {', '.join(changed[:SHOWN])}{more}"
        )


def _heads(net: Net, sites: Iterable[Site], origin: Base) -> list[str]:
    """Return the names of the modules that are trained whole, and of the heads that PEFT keeps in any case."""
    names = [name for name, _ in net.model.named_modules()]
    known = [name for name in names if origin.task == "classify" and name.split(".")[-1] in HEADS]
    owners = {key.rpartition(".")[0] for key in net.trainable - net.factors}
    heads = known + sorted(owner for owner in owners if not any(_is_in(owner, head) for head in known))
    if both := [head for head in heads if any(_is_in(site.weight, head) for site in sites)]:
        raise ModelError(
            f"{both[0] or 'the model'} is trained whole and has factors too, which PEFT cannot have at once: {MERGED}"
        )
    return heads


def _is_in(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.") or not module


def _config(net: Net, sites: Sequence[Site], heads: list[str], origin: Base) -> Any:
    """Return the adapter's configuration: exact names, and a scale of 1 everywhere."""
    ranks = {_layer(site): site.rank for site in sites}
    usual = Counter(ranks.values()).most_common(1)[0][0]
    others = {name: rank for name, rank in ranks.items() if rank != usual}
    turned = set(transposed(net.model))
    return library("peft").LoraConfig(
        task_type="SEQ_CLS" if origin.task == "classify" else "CAUSAL_LM",
        base_model_name_or_path=origin.place.name,
        revision=origin.place.revision,
        inference_mode=True,
        r=usual,
        lora_alpha=usual,
        rank_pattern=others,
        alpha_pattern=others,
        target_modules=sorted(ranks),
        modules_to_save=heads or None,
        fan_in_fan_out=any(site.weight in turned for site in sites),
    )


def _layer(site: Site) -> str:
    return site.weight.removesuffix(".weight")


def _write(folder: Path, whole: Increment, heads: Mapping[str, Tensor], config: Any, net: Net) -> None:
    tables = {name for name, layer in net.model.named_modules() if isinstance(layer, nn.Embedding)}
    named = {f"{PREFIX}{key}": value for key, value in heads.items()}
    for site in whole.sites:
        named |= _named(site, whole.factors, table=_layer(site) in tables)
    written = {key: value.detach().clone().contiguous() for key, value in named.items()}
    settings = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    write_atomic(folder / CONFIG, json.dumps(settings, indent=2, sort_keys=True).encode())
    write_atomic(folder / WEIGHTS, safetensors.torch.save(written, {"format": "pt"}))


def _named(site: Site, factors: Params, *, table: bool) -> Params:
    """Return the factors under PEFT's names; those of an embedding are transposed and change places."""
    a, b = factors[site.a], factors[site.b]
    if table:
        return {f"{PREFIX}{_layer(site)}.lora_embedding_A": b.T, f"{PREFIX}{_layer(site)}.lora_embedding_B": a.T}
    return {f"{PREFIX}{_layer(site)}.lora_A.weight": a, f"{PREFIX}{_layer(site)}.lora_B.weight": b}


def _computed(net: Net, start: Params, whole: Increment, heads: Params) -> Params:
    """Return W₀ + BA in float32 or better, never rounded to the weights' own type, and no live factors."""
    wide = tree.map(lambda t: t.to(torch.promote_types(t.dtype, torch.float32)), start | heads)
    idle = tree.map(torch.zeros_like, tree.select(net.params, net.factors))
    return lowrank.merge(whole.sites, wide, whole.factors) | idle
