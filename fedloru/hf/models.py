"""Load transformers models from a folder or the hub, and prepare them for training by federated methods."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn

from fedloru.errors import ConfigError, ModelError
from fedloru.hf.parts import BYTES, in_body, is_pooler
from fedloru.hf.preparation import prepare
from fedloru.hf.source import Source, check_weights, library, loading, source
from fedloru.rng import gen
from fedloru.settings.types import Flag, Text

Task = Literal["causal", "classify"]
Dtype = Literal["float32", "bfloat16"]
Attention = Literal["sdpa", "eager", "flash_attention_2"]
TOKENIZERS = ("tokenizer*", "vocab*", "*.model")
SHOWN = 5
"""The number of weights that a message names."""


def load(
    name: str,
    *,
    task: Task = "causal",
    classes: Sequence[str] = (),
    revision: Text | None = None,
    dtype: Dtype | torch.dtype = "float32",
    attention: Attention | None = None,
    checkpointing: Flag = False,
    trust_remote_code: Flag = False,
    seed: int = 0,
) -> nn.Module:
    """Load a causal language model, or a classifier of texts into ``classes``, from a folder or the hub.

    A classifier keeps its pretrained head if that is for exactly these classes, in this order. Otherwise a fresh head
    is initialized from (seed, "head") and trained whole; all other weights are frozen.

    Args:
        name: a folder, or a name on the hub.
        task: ``"causal"`` or ``"classify"``.
        classes: the names of the classes, for a classifier.
        revision: the commit of a model on the hub, 40 hexadecimal digits; required there.
        dtype: the dtype of the weights; factors are always float32.
        attention: the attention implementation; default: chosen by transformers.
        checkpointing: recompute each layer in the backward pass, which takes about a third more time and keeps only
            the inputs of the layers in memory.
        trust_remote_code: allow code that comes with the model to run.
        seed: the seed of a fresh head.

    Raises:
        ConfigError: the task is unknown, or the classes do not fit it.
        ModelError: there is no such model, its weights are pickled or incomplete, or it does not support the task.
        MissingExtraError: transformers is not installed.
    """
    _check_task(task, classes)
    place = source(name, revision, trust_remote_code)
    check_weights(place)
    with loading(place, "the model"), torch.random.fork_rng(devices=[]):
        weights = getattr(torch, dtype) if isinstance(dtype, str) else dtype
        model, fresh = read(place, task, classes, weights, attention)
    _init_head(model, fresh, seed)
    model = prepare(model, trained=fresh, checkpointing=checkpointing)
    if task == "causal":
        _check_causal(model, name)
    return model


def tokenizer(name: str, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """Load the tokenizer of a model from the same folder or name on the hub.

    Raises:
        ModelError: there is no tokenizer.
        MissingExtraError: transformers is not installed.
    """
    place = source(name, revision, trust_remote_code)
    if place.is_folder and not any(path for glob in TOKENIZERS for path in Path(name).glob(glob)):
        raise ModelError(f"{name} has no tokenizer: copy tokenizer.json and tokenizer_config.json to this folder")
    with loading(place, "the tokenizer"):
        return library().AutoTokenizer.from_pretrained(**place.arguments)


def positions(name: str, *, revision: str | None = None, trust_remote_code: bool = False) -> int | None:
    """Return the maximum sequence length in the configuration of a model; None if it has no such setting.

    Raises:
        ModelError: there is no configuration.
        MissingExtraError: transformers is not installed.
    """
    place = source(name, revision, trust_remote_code)
    with loading(place, "the configuration"):
        config = library().AutoConfig.from_pretrained(**place.arguments).get_text_config()
    longest: int | None = getattr(config, "max_position_embeddings", None)
    return longest


def auto_class(task: Task) -> Any:
    """Return the class of transformers that loads models for ``task``."""
    transformers = library()
    return transformers.AutoModelForCausalLM if task == "causal" else transformers.AutoModelForSequenceClassification


def _check_task(task: str, classes: Sequence[str]) -> None:
    if task not in get_args(Task):
        raise ConfigError([f"task is {task!r}, expected 'causal' or 'classify'"], "the model")
    if isinstance(classes, str) or not isinstance(classes, Sequence):
        raise ConfigError([f"classes is {classes!r}, expected a list of the names of the classes"], "the model")
    if task == "causal" and classes:
        raise ConfigError(["classes are given, but a causal model has none: leave them out"], "the model")
    if task == "classify" and len(classes) < 2:
        raise ConfigError([f"{len(classes)} classes are given, but a classifier needs 2 or more"], "the model")


def read(
    place: Source, task: Task, classes: Sequence[str], dtype: torch.dtype, attention: Attention | None
) -> tuple[nn.Module, list[str]]:
    """Load a model with transformers, and return it with the names of the parameters that were not in its files.

    Raises:
        ModelError: weights are missing.
    """
    config = library().AutoConfig.from_pretrained(**place.arguments)
    auto, labels = auto_class(task), dict(enumerate(classes)) if task == "classify" else {}
    if not place.trust_remote_code and type(config) not in auto._model_mapping:
        what = "predicts the next token" if task == "causal" else "classifies texts"
        raise ModelError(
            f"transformers has no model of the type {config.model_type!r}, that of {place.name}, that {what}: name "
            "another model"
        )
    settings = {"id2label": labels, "label2id": {name: number for number, name in labels.items()}} if labels else {}
    model, report = auto.from_pretrained(
        **place.arguments,
        **settings,
        dtype=dtype,
        attn_implementation=attention,
        use_safetensors=True,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    absent = {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}
    head = _head(model) if task == "classify" else set()
    if missing := sorted(absent - head):
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        raise ModelError(
            f"{place.name} lacks the weights {', '.join(missing[:SHOWN])}{more} of a {type(model).__name__}: "
            "name a complete model, or a model for this task"
        )
    if labels and dict(config.id2label) != labels:
        absent |= {name for name in head if not in_body(model)(name)}
    return model, sorted(absent)


def _head(model: nn.Module) -> set[str]:
    """Return the names of the parameters outside the encoder, and of its pooler, which some checkpoints lack."""
    is_body = in_body(model)
    return {name for name, _ in model.named_parameters() if not is_body(name) or is_pooler(name)}


def _init_head(model: nn.Module, fresh: Iterable[str], seed: int) -> None:
    """Draw each fresh matrix from N(0, initializer_range²), seeded by its name; vectors keep 0, or 1 in a norm."""
    std = getattr(model.config, "initializer_range", 0.02)
    for name in fresh:
        parameter = model.get_parameter(name)
        if parameter.ndim > 1:
            drawn = torch.empty(parameter.shape).normal_(0, std, generator=gen(seed, "head", name))
            parameter.data = drawn.to(parameter)


@torch.no_grad()
def _check_causal(model: Any, name: str) -> None:
    """Raise ModelError if the logits at a position depend on later tokens, as those of an encoder do."""
    ids = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 5]]) % getattr(model.config.get_text_config(), "vocab_size", BYTES)
    first, second = model(input_ids=ids).logits[:, :3].float()
    rounding = 10 * torch.finfo(next(model.parameters()).dtype).eps * float(first.abs().max())
    if not torch.allclose(first, second, rtol=0, atol=rounding):
        raise ModelError(
            f"{name} is a {type(model).__name__} that attends to later tokens, as encoders do, so it cannot be "
            "trained to predict the next token: use it as a classifier, or name a causal model"
        )
