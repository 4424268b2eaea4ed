"""Start a run from an adapter of the PEFT library, which is merged into the weights before the first round.

The run treats the adapter as an increment that precedes all others. Like any other increment, it is merged in float64
and rounded once. PEFT's variants of LoRA whose update is not a product of two factors, such as DoRA, are rejected.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from fedloru import lowrank, tree
from fedloru.errors import ModelError, quoted, sentence
from fedloru.hf.adapter import CONFIG, PREFIX, WEIGHTS
from fedloru.hf.base import body_hash, class_names
from fedloru.hf.models import SHOWN, is_classifier
from fedloru.hf.source import PICKLED
from fedloru.lowrank import Increment, Site
from fedloru.net import Net
from fedloru.reading import UnreadableError, read_json, read_tensors
from fedloru.tree import Params

ABOUT = "fedloru.json"
UNSUPPORTED = {
    "use_dora": "DoRA, whose update is not a product of two factors",
    "lora_bias": "biases in the factors",
    "layer_replication": "replicated layers",
    "trainable_token_indices": "trained rows of an embedding",
    "target_parameters": "parameters that are not the weight of a layer",
    "alora_invocation_tokens": "aLoRA, which is activated by tokens",
    "use_qalora": "QA-LoRA",
    "use_bdlora": "BD-LoRA",
    "velora_config": "VeLoRA",
    "monteclora_config": "MonteCLoRA",
    "arrow_config": "Arrow",
    "kasa_config": "KaSA",
    "megatron_config": "Megatron layers",
}
"""Settings of PEFT with which an adapter is more than a pair of factors, and their meaning."""
DEFAULT_ALPHA = 8
"""PEFT's default for lora_alpha."""
INITS = (True, False, "gaussian", "eva", "orthogonal")
"""The values of init_lora_weights that do not change the base."""
FACTOR = re.compile(r"(.+)\.(lora_A\.weight|lora_B\.weight|lora_embedding_A|lora_embedding_B)")

log = logging.getLogger("fedloru")


class _Adapter(NamedTuple):
    """The contents of an adapter folder: its configuration, the factors by layer and PEFT's name, all other tensors."""

    config: dict[str, Any]
    factors: dict[str, Params]
    rest: Params


def adopt(net: Net, folder: str | Path) -> Net:
    """Return ``net`` with the adapter in ``folder`` merged into its weights.

    If the adapter has a trained head, it replaces the model's head and is trained further.

    Raises:
        ModelError: there is no such adapter, it is not plain LoRA, or it belongs to another base.
    """
    folder = Path(folder)
    if net.imported is not None:
        raise ModelError(
            f"an adapter is already merged into the model, and {folder} would be a second one: use only one"
        )
    adapter = _read(folder)
    try:
        return _merged(net, folder, adapter)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, re.error) as error:
        raise ModelError(
            f"the adapter in {folder} cannot be used, because its {CONFIG} or a factor has a value that PEFT does not "
            f"write ({sentence(error)}): restore the files"
        ) from error


def _merged(net: Net, folder: Path, adapter: _Adapter) -> Net:
    problems = [*_unsupported(adapter.config)] or [*_mismatches(net, adapter), *_other_base(net, folder)]
    if problems:
        more = f"; and {len(problems) - SHOWN} more problems" if len(problems) > SHOWN else ""
        raise ModelError(f"the adapter in {folder} cannot be used: {'; '.join(problems[:SHOWN])}{more}")
    increment = _increment(net, adapter)
    heads = tree.cast_like(adapter.rest, net.params)
    changed = {key for key, value in heads.items() if not value.equal(net.params[key])}
    merged = lowrank.merge(increment.sites, net.params, increment.factors) | heads
    return net._replace(params=merged, trainable=net.trainable | changed, imported=increment)


def _read(folder: Path) -> _Adapter:
    if not (folder / CONFIG).is_file():
        raise ModelError(f"{folder} has no {CONFIG}, so it is not a PEFT adapter: name the folder of an adapter")
    if not (folder / WEIGHTS).is_file():
        pickled = sorted(path.name for pattern in PICKLED for path in folder.glob(pattern))
        raise ModelError(
            f"{folder} has no {WEIGHTS}"
            + (f", only {pickled[0]}, a pickle, which can run arbitrary code when loaded" if pickled else "")
            + ": ask the author of the adapter to save it again with model.save_pretrained(folder)"
        )
    try:
        name = CONFIG
        config = read_json(folder / name, dict)
        name = WEIGHTS
        tensors, _ = read_tensors(folder / name)
    except (OSError, UnreadableError) as error:
        raise ModelError(
            f"the adapter in {folder} cannot be used, because of its {name}: {error}. Restore the file"
        ) from error
    factors: dict[str, Params] = {}
    rest: Params = {}
    for key, value in sorted(tensors.items()):
        name = key.removeprefix(PREFIX)
        if match := FACTOR.fullmatch(name):
            factors.setdefault(match[1], {})[match[2].removesuffix(".weight")] = value
        else:
            rest[name] = value
    return _Adapter(config, factors, rest)


def _increment(net: Net, adapter: _Adapter) -> Increment:
    sites: list[Site] = []
    factors: Params = {}
    for layer, named in adapter.factors.items():
        a, b = _pair(named)
        shape, scale = tuple(net.params[f"{layer}.weight"].shape), _scale(adapter, layer, a)
        sites.append(Site(f"{layer}.weight", f"{layer}.a", f"{layer}.b", shape, len(a), scale))
        factors |= {f"{layer}.a": a, f"{layer}.b": b}
    return Increment(tuple(sites), factors)


def _pair(named: Params) -> tuple[Tensor, Tensor]:
    """Return A (r, i) and B (o, r); PEFT stores those of an embedding transposed and swapped."""
    if "lora_A" in named:
        return named["lora_A"], named["lora_B"]
    return named["lora_embedding_B"].T.contiguous(), named["lora_embedding_A"].T.contiguous()


def _scale(adapter: _Adapter, layer: str, a: Tensor) -> float:
    """Return α/r, or α/√r for rsLoRA; an ``alpha_pattern`` that matches the layer overrides ``lora_alpha``."""
    patterns = adapter.config.get("alpha_pattern") or {}
    matching = [alpha for pattern, alpha in patterns.items() if re.match(rf"(.*\.)?({pattern})$", layer)]
    alpha = float(matching[0] if matching else adapter.config.get("lora_alpha", DEFAULT_ALPHA))
    return alpha / (math.sqrt(len(a)) if adapter.config.get("use_rslora") else len(a))


def _unsupported(config: dict[str, Any]) -> Iterator[str]:
    if (kind := config.get("peft_type")) != "LORA":
        yield f"its type is {quoted(kind)}, but only LORA is supported"
    for key, what in UNSUPPORTED.items():
        if config.get(key):
            yield f"it uses {key} ({what})"
    for alpha in (config.get("lora_alpha", DEFAULT_ALPHA), *(config.get("alpha_pattern") or {}).values()):
        if not isinstance(alpha, int | float):
            yield f"its alpha is {quoted(alpha)}, expected a number"
    if config.get("bias", "none") != "none":
        yield f"it has trained biases (bias = {quoted(config['bias'])})"
    if (start := config.get("init_lora_weights", True)) not in INITS:
        yield f"init_lora_weights is {quoted(start)}, which changes the base: convert it to plain LoRA with PEFT"


def _mismatches(net: Net, adapter: _Adapter) -> Iterator[str]:
    """Yield what does not fit the model: layers, shapes, tied weights and dense tensors."""
    owners: dict[Tensor, list[str]] = {}
    for name, parameter in net.model.named_parameters(remove_duplicate=False):
        owners.setdefault(parameter, []).append(name)
    tied = {name for names in owners.values() if len(names) > 1 for name in names}
    for layer, named in adapter.factors.items():
        key = f"{layer}.weight"
        if named.keys() not in ({"lora_A", "lora_B"}, {"lora_embedding_A", "lora_embedding_B"}):
            yield f"it has only {' and '.join(named)} for {layer}"
        elif key in tied:
            yield f"{key} is tied, so changing it would change all layers that share it"
        elif key not in net.params:
            yield f"the model has no layer {layer}"
        else:
            yield from _shape_mismatches(layer, tuple(net.params[key].shape), *_pair(named))
    for key, value in adapter.rest.items():
        yield from _dense_mismatches(net, key, value)
    if not adapter.factors:
        yield "it has no factors"


def _shape_mismatches(layer: str, shape: tuple[int, ...], a: Tensor, b: Tensor) -> Iterator[str]:
    if (b.shape[0], *a.shape[1:]) != shape or a.shape[0] != b.shape[1]:
        factors = f"{_shape_text(b.shape)} and {_shape_text(a.shape)}"
        yield f"{layer} is {_shape_text(shape)} in the model, but its factors are {factors}"


def _shape_text(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))


def _dense_mismatches(net: Net, key: str, value: Tensor) -> Iterator[str]:
    model: Any = net.model
    if key not in net.params:
        yield f"the model has no {key}"
    elif value.shape != net.params[key].shape:
        shape = _shape_text(net.params[key].shape)
        yield f"{key} is {shape} in the model but {_shape_text(value.shape)} in the adapter"
    elif value.equal(net.params[key]):
        return
    elif not is_classifier(model) or (key.startswith(f"{model.base_model_prefix}.") and key not in net.trainable):
        yield f"it has a dense copy of {key}, but only classification heads may be dense"


def _other_base(net: Net, folder: Path) -> Iterator[str]:
    """Yield how the base differs from that of the adapter; only adapters exported by fedloru record enough to check."""
    if not (folder / ABOUT).is_file():
        return
    try:
        base = read_json(folder / ABOUT, dict)["base"]
        name, dtype, digest, classes = (base[key] for key in ("name", "dtype", "hash", "classes"))
    except (OSError, UnreadableError, KeyError, TypeError) as error:
        yield f"its {ABOUT} cannot be read ({type(error).__name__}): restore it, or remove it to check only the shapes"
        return
    model: Any = net.model
    current = str(model.dtype).split(".")[-1]
    if current != dtype:
        log.warning("the adapter was trained on %s in %s, not %s: the base cannot be verified", name, dtype, current)
    elif digest != body_hash(net, net.params):
        yield f"it is for {name}, whose weights have the hash {digest}; the weights of this model differ"
    labels = class_names(model) if is_classifier(model) else []
    if classes and labels and classes != labels:
        yield f"its classes are {', '.join(classes)}, but those of the data are {', '.join(labels)}"
