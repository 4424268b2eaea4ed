"""Start a run from an adapter of the PEFT library, which is merged into the weights before the first round.

The run treats the adapter as an increment that precedes all others. Like any other increment, it is merged in float64
and rounded once. PEFT's variants of LoRA whose update is not a product of two factors, such as DoRA, are rejected.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from fedloru import lowrank, tree
from fedloru.errors import ModelError, quoted, sentence
from fedloru.hf.adapter import CONFIG, adapter_problem
from fedloru.hf.base import body_hash, class_names
from fedloru.hf.models import SHOWN
from fedloru.hf.parts import in_body, is_classifier
from fedloru.hf.preparation import transposed
from fedloru.hf.saved import SavedAdapter, pair, read_adapter
from fedloru.lowrank import Increment, Site
from fedloru.net import Net
from fedloru.reading import UnreadableError, read_json
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
RESIZED = ": if its vocabulary was resized, resize that of the model in the same way and save it as the base"

log = logging.getLogger("fedloru")


def adopt(net: Net, folder: str | Path) -> Net:
    """Return ``net`` with the adapter in ``folder`` merged into its weights.

    Modules that the adapter holds whole, such as a trained head, replace those of the model and are trained further.

    Raises:
        ModelError: there is no such adapter, it is not plain LoRA, or it belongs to another base.
    """
    folder = Path(folder)
    if net.imported is not None:
        raise ModelError(
            f"an adapter is already merged into the model, and {folder} would be a second one: use only one"
        )
    adapter = read_adapter(folder, transposed(net.model))
    try:
        return _merged(net, folder, adapter)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, re.error) as error:
        raise ModelError(
            f"the adapter in {folder} cannot be used, because its {CONFIG} or a factor has a value that PEFT does not "
            f"write ({sentence(error)}): restore the files"
        ) from error


def _merged(net: Net, folder: Path, adapter: SavedAdapter) -> Net:
    problems = [*_unsupported(adapter.config)] or [*_mismatches(net, adapter), *_other_base(net, folder)]
    if problems:
        more = f"; and {len(problems) - SHOWN} more problems" if len(problems) > SHOWN else ""
        raise ModelError(f"the adapter in {folder} cannot be used: {'; '.join(problems[:SHOWN])}{more}")
    increment = _increment(net, adapter)
    changed = {key: value for key, value in adapter.rest.items() if not _is_copy(value, net.params[key])}
    merged = lowrank.merge(increment.sites, net.params, increment.factors) | tree.cast_like(changed, net.params)
    adopted = net._replace(params=merged, trainable=net.trainable | changed.keys(), imported=increment)
    if changed and (problem := adapter_problem(adopted)):
        log.warning("the trained model cannot be exported as an adapter: %s", problem)
    return adopted


def _increment(net: Net, adapter: SavedAdapter) -> Increment:
    sites: list[Site] = []
    factors: Params = {}
    for layer, named in adapter.factors.items():
        a, b = pair(named)
        shape, scale = tuple(net.params[f"{layer}.weight"].shape), _scale(adapter, layer, a)
        sites.append(Site(f"{layer}.weight", f"{layer}.a", f"{layer}.b", shape, len(a), scale))
        factors |= {f"{layer}.a": a, f"{layer}.b": b}
    return Increment(tuple(sites), factors)


def _scale(adapter: SavedAdapter, layer: str, a: Tensor) -> float:
    """Return α/r, or α/√r for rsLoRA; an ``alpha_pattern`` that matches the layer overrides ``lora_alpha``."""
    patterns = adapter.config.get("alpha_pattern") or {}
    matching = {pattern: alpha for pattern, alpha in patterns.items() if re.match(rf"(.*\.)?({pattern})$", layer)}
    if len({*matching.values()}) > 1:
        log.warning(
            "alpha_pattern of the adapter has several values for %s (%s), and their order is lost when PEFT saves "
            "them: the first one is used, as PEFT does when it loads the adapter",
            layer,
            ", ".join(f"{pattern}: {alpha}" for pattern, alpha in matching.items()),
        )
    alpha = float(next(iter(matching.values()), adapter.config.get("lora_alpha", DEFAULT_ALPHA)))
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


def _mismatches(net: Net, adapter: SavedAdapter) -> Iterator[str]:
    """Yield what does not fit the model: layers, shapes, tied weights and dense tensors."""
    tied = _tied(net)
    for layer, named in adapter.factors.items():
        key = f"{layer}.weight"
        if named.keys() not in ({"lora_A", "lora_B"}, {"lora_embedding_A", "lora_embedding_B"}):
            yield f"it has only {' and '.join(named)} for {layer}"
        elif key in tied:
            yield f"{key} is tied, so changing it would change all layers that share it"
        elif key not in net.params:
            yield f"the model has no layer {layer}"
        else:
            yield from _shape_mismatches(layer, tuple(net.params[key].shape), *pair(named))
    for key, value in {**adapter.copies, **adapter.rest}.items():
        if key not in tied and key not in net.params:
            yield f"the model has no {key}"
        elif (own := net.params[tied.get(key, key)]).shape != value.shape:
            yield (
                f"{key} is {_shape_text(own.shape)} in the model but {_shape_text(value.shape)} in the adapter"
                f"{RESIZED if own.shape[1:] == value.shape[1:] else ''}"
            )
        elif not _is_copy(value, own):
            yield from _dense_mismatches(net, adapter, tied, key)
    if not adapter.factors:
        yield "it has no factors"


def _tied(net: Net) -> dict[str, str]:
    """Return the keys of tied weights, each with the first key of the same weight."""
    owners: dict[Tensor, list[str]] = {}
    for name, parameter in net.model.named_parameters(remove_duplicate=False):
        owners.setdefault(parameter, []).append(name)
    return {name: names[0] for names in owners.values() if len(names) > 1 for name in names}


def _is_copy(value: Tensor, own: Tensor) -> bool:
    """Return whether two tensors are equal in the narrower of their dtypes, such as a weight and its rounded copy."""
    dtype = min(value.dtype, own.dtype, key=lambda each: each.itemsize)
    return value.shape == own.shape and value.to(dtype).equal(own.to(dtype))


def _shape_mismatches(layer: str, shape: tuple[int, ...], a: Tensor, b: Tensor) -> Iterator[str]:
    if (b.shape[0], *a.shape[1:]) != shape or a.shape[0] != b.shape[1]:
        factors = f"{_shape_text(b.shape)} and {_shape_text(a.shape)}"
        yield f"{layer} is {_shape_text(shape)} in the model, but its factors are {factors}"


def _shape_text(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))


def _dense_mismatches(net: Net, adapter: SavedAdapter, tied: Collection[str], key: str) -> Iterator[str]:
    """Yield why a weight of the adapter that differs from the model's cannot replace it."""
    model: Any = net.model
    modules = adapter.config.get("modules_to_save") or []
    if key in adapter.copies:
        yield f"it was trained on another base, whose {key} differs from the model's"
    elif key in tied:
        yield f"it has a separate copy of {key}, which is tied in the model"
    elif key in {site.weight for site in net.sites}:
        yield f"it holds {key} whole, but this layer is to get factors: leave it out of the targets"
    elif not any(module.endswith(name) for module in _modules(key) for name in modules) and not (
        is_classifier(model) and (key in net.trainable or not in_body(model)(key))
    ):
        yield f"it has a dense copy of {key}, which differs from the model's and is not one of its modules_to_save"


def _modules(key: str) -> list[str]:
    """Return the names of the modules that contain a parameter."""
    parts = key.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


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
