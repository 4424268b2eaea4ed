"""Starting from an adapter of the PEFT library: it is merged into the weights before the first round.

To a run, an adapter is the increment that came before all others. Merges are computed in float64 and rounded once, like
any other. What PEFT has beside plain LoRA, such as DoRA, is refused: it is no product of two factors.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
from torch import Tensor

from fedloru import lowrank, tree
from fedloru.errors import ModelError
from fedloru.hf.adapter import CONFIG, PREFIX, WEIGHTS
from fedloru.hf.base import body_hash, class_names
from fedloru.hf.models import SHOWN, is_classifier
from fedloru.hf.source import PICKLED
from fedloru.lowrank import Increment, Site
from fedloru.net import Net
from fedloru.tree import Params

ABOUT = "fedloru.json"
OTHERS = {
    "use_dora": "DoRA, whose update is no product of two factors",
    "lora_bias": "biases of factors",
    "layer_replication": "layers that are used again",
    "trainable_token_indices": "rows of an embedding",
    "target_parameters": "parameters that are no layer's weight",
    "alora_invocation_tokens": "aLoRA, which is switched on by tokens",
    "use_qalora": "QA-LoRA",
    "use_bdlora": "BD-LoRA",
    "velora_config": "VeLoRA",
    "monteclora_config": "MonteCLoRA",
    "arrow_config": "Arrow",
    "kasa_config": "KaSA",
    "megatron_config": "layers of Megatron",
}
"""Settings of PEFT with which an adapter is something else than factors, and what."""
USUAL_ALPHA = 8
"""PEFT's."""
STARTS = (True, False, "gaussian", "eva", "orthogonal")
"""Ways to draw factors that leave the base as it is."""
FACTOR = re.compile(r"(.+)\.(lora_A\.weight|lora_B\.weight|lora_embedding_A|lora_embedding_B)")

log = logging.getLogger("fedloru")


class _Found(NamedTuple):
    """What is in the folder: settings, factors by layer and PEFT's name, and all other tensors."""

    config: dict[str, Any]
    factors: dict[str, Params]
    rest: Params


def adopt(net: Net, folder: str | Path) -> Net:
    """Return ``net`` with the adapter in ``folder`` merged into its weights; its head, if it has one, is trained on.

    Raises:
        ModelError: there is no such adapter, it is not plain LoRA, or it is for another base.
    """
    folder = Path(folder)
    if net.imported is not None:
        raise ModelError(f"the model has an adapter merged already, and {folder} would be a second: take one of them")
    found = _read(folder)
    problems = [*_other_kinds(found.config)] or [*_strangers(net, found), *_other_base(net, folder)]
    if problems:
        more = f"; and {len(problems) - SHOWN} more of the kind" if len(problems) > SHOWN else ""
        raise ModelError(f"the adapter in {folder} cannot be taken: {'; '.join(problems[:SHOWN])}{more}")
    whole = _increment(net, found)
    heads = tree.cast_like(found.rest, net.params)
    changed = {key for key, value in heads.items() if not value.equal(net.params[key])}
    merged = lowrank.merge(whole.sites, net.params, whole.factors) | heads
    return net._replace(params=merged, trainable=net.trainable | changed, imported=whole)


def _read(folder: Path) -> _Found:
    if not (folder / CONFIG).is_file():
        raise ModelError(f"{folder} has no {CONFIG}, so it holds no adapter of PEFT: name the folder of one")
    if not (folder / WEIGHTS).is_file():
        pickled = sorted(path.name for pattern in PICKLED for path in folder.glob(pattern))
        raise ModelError(
            f"{folder} has no {WEIGHTS}"
            + (f", but {pickled[0]}, a pickle, which can run any code when it is read" if pickled else "")
            + ": have whoever made it save it anew with model.save_pretrained(folder)"
        )
    try:
        config = json.loads((folder / CONFIG).read_bytes())
        tensors = safetensors.torch.load((folder / WEIGHTS).read_bytes())
        config["peft_type"]  # whatever lacks it is no adapter's
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise ModelError(f"the adapter in {folder} cannot be read: {type(error).__name__}: {error}") from error
    factors: dict[str, Params] = {}
    rest: Params = {}
    for key, value in sorted(tensors.items()):
        name = key.removeprefix(PREFIX)
        if match := FACTOR.fullmatch(name):
            factors.setdefault(match[1], {})[match[2].removesuffix(".weight")] = value
        else:
            rest[name] = value
    return _Found(config, factors, rest)


def _increment(net: Net, found: _Found) -> Increment:
    sites: list[Site] = []
    factors: Params = {}
    for layer, named in found.factors.items():
        a, b = _pair(named)
        shape, scale = tuple(net.params[f"{layer}.weight"].shape), _scale(found, layer, a)
        sites.append(Site(f"{layer}.weight", f"{layer}.a", f"{layer}.b", shape, len(a), scale))
        factors |= {f"{layer}.a": a, f"{layer}.b": b}
    return Increment(tuple(sites), factors)


def _pair(named: Params) -> tuple[Tensor, Tensor]:
    """Return A (r, i) and B (o, r); those of an embedding are transposed and change places."""
    if "lora_A" in named:
        return named["lora_A"], named["lora_B"]
    return named["lora_embedding_B"].T.contiguous(), named["lora_embedding_A"].T.contiguous()


def _scale(found: _Found, layer: str, a: Tensor) -> float:
    """Return α/r, or α/√r where the adapter is rank-stabilised; a pattern for the layer goes before the usual α."""
    patterns = found.config.get("alpha_pattern") or {}
    own = [alpha for pattern, alpha in patterns.items() if re.match(rf"(.*\.)?({pattern})$", layer)]
    alpha = float(own[0] if own else found.config.get("lora_alpha", USUAL_ALPHA))
    return alpha / (math.sqrt(len(a)) if found.config.get("use_rslora") else len(a))


def _other_kinds(config: dict[str, Any]) -> Iterator[str]:
    if (kind := config["peft_type"]) != "LORA":
        yield f"it is of the type {kind}, and only LORA can be merged"
    for key, what in OTHERS.items():
        if config.get(key):
            yield f"it has {key}, {what}"
    for alpha in (config.get("lora_alpha", USUAL_ALPHA), *(config.get("alpha_pattern") or {}).values()):
        if not isinstance(alpha, int | float):
            yield f"its alpha is {alpha!r}, and must be a number"
    if config.get("bias", "none") != "none":
        yield f"it has trained biases (bias = {config['bias']!r})"
    if (start := config.get("init_lora_weights", True)) not in STARTS:
        yield f"init_lora_weights is {start!r}, which changes the base: have it converted to plain LoRA by PEFT"


def _strangers(net: Net, found: _Found) -> Iterator[str]:
    """Yield what the model has no place for."""
    owners: dict[Tensor, list[str]] = {}
    for name, parameter in net.model.named_parameters(remove_duplicate=False):
        owners.setdefault(parameter, []).append(name)
    tied = {name for names in owners.values() if len(names) > 1 for name in names}
    for layer, named in found.factors.items():
        key = f"{layer}.weight"
        if named.keys() not in ({"lora_A", "lora_B"}, {"lora_embedding_A", "lora_embedding_B"}):
            yield f"it has only {' and '.join(named)} of {layer}"
        elif key in tied:
            yield f"{key} is tied, and a change of it would change every owner"
        elif key not in net.params:
            yield f"the model has no layer {layer}"
        else:
            yield from _shapes(layer, tuple(net.params[key].shape), *_pair(named))
    for key, value in found.rest.items():
        yield from _no_head(net, key, value)
    if not found.factors:
        yield "it has no factors"


def _shapes(layer: str, shape: tuple[int, ...], a: Tensor, b: Tensor) -> Iterator[str]:
    if (b.shape[0], *a.shape[1:]) != shape or a.shape[0] != b.shape[1]:
        yield f"{layer} is {_by(shape)} in the model, and its factors are {_by(b.shape)} and {_by(a.shape)}"


def _by(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))


def _no_head(net: Net, key: str, value: Tensor) -> Iterator[str]:
    model: Any = net.model
    if key not in net.params:
        yield f"the model has no {key}"
    elif value.shape != net.params[key].shape:
        shapes = _by(net.params[key].shape), _by(value.shape)
        yield f"{key} is {shapes[0]} in the model and {shapes[1]} in the adapter"
    elif value.equal(net.params[key]):
        return
    elif not is_classifier(model) or (key.startswith(f"{model.base_model_prefix}.") and key not in net.trainable):
        yield f"it has a whole copy of {key}, and only heads of classifiers are taken whole"


def _other_base(net: Net, folder: Path) -> Iterator[str]:
    """Yield how the base is known to be another; an adapter that is not ours says its name at most."""
    if not (folder / ABOUT).is_file():
        return
    try:
        theirs = json.loads((folder / ABOUT).read_bytes())["base"]
        name, dtype, digest, classes = (theirs[key] for key in ("name", "dtype", "hash", "classes"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        yield f"its {ABOUT} cannot be read ({type(error).__name__}): restore it, or remove it to check shapes alone"
        return
    model: Any = net.model
    ours = str(model.dtype).split(".")[-1]
    if ours != dtype:
        log.warning("the adapter is for %s in %s, here in %s: the bits of weights are not compared", name, dtype, ours)
    elif digest != body_hash(net, net.params):
        yield f"it is for {name}, whose weights have the hash {digest}; those of the model are others"
    labels = class_names(model) if is_classifier(model) else []
    if classes and labels and classes != labels:
        yield f"its classes are {', '.join(classes)}, and those of the data are {', '.join(labels)}"
