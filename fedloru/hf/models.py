"""Models of transformers, made ready to be trained by federated methods.

``load`` reads one from a folder or the hub, ``prepare`` takes one that is already there. Either way its weights are
frozen, it keeps no cache, and each of the library's ``Conv1D`` is an ``nn.Linear`` with the transposed weight under
the same key, so that there is one kind of linear layer for factors to be attached to.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn

from fedloru.errors import ConfigError, ModelError
from fedloru.hf.source import Source, check_weights, library, source, told
from fedloru.rng import gen

Task = Literal["causal", "classify"]
Attention = Literal["sdpa", "eager", "flash_attention_2"]
TOKENIZERS = ("tokenizer*", "vocab*", "*.model")
SHOWN = 5
"""So many missing weights are named in a message."""


def load(
    name: str,
    *,
    task: Task = "causal",
    classes: Sequence[str] = (),
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    attention: Attention | None = None,
    checkpointing: bool = False,
    trust_remote_code: bool = False,
    seed: int = 0,
) -> nn.Module:
    """Load a causal language model, or a classifier of texts into ``classes``, from a folder or the hub.

    A classifier keeps the head that comes with it where that is for these very classes, in this order. Any other
    head is drawn from (seed, "head") and will be trained whole; it alone, all other weights are frozen. A name on
    the hub needs the ``revision`` it is taken at, the 40 digits of a commit. ``attention`` is how the library
    computes attention (None: as it chooses), and ``checkpointing`` computes each layer anew in the backward pass,
    which takes a third more time and keeps only what enters the layers.

    Raises:
        ConfigError: an unknown task, or classes that do not go with it.
        ModelError: there is no such model, its weights are pickled or incomplete, or it does not serve the task.
        MissingExtraError: transformers is not installed.
    """
    _check_task(task, classes)
    place = source(name, revision, trust_remote_code)
    check_weights(place)
    with told(place, "the model"), torch.random.fork_rng(devices=[]):
        model, fresh = read(place, task, classes, dtype, attention)
    _draw(model, fresh, seed)
    model = prepare(model, trained=fresh, checkpointing=checkpointing)
    if task == "causal":
        _refuse_looking_ahead(model, name)
    return model


def tokenizer(name: str, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """Load the tokenizer that belongs to a model, from the same place.

    Raises:
        ModelError: there is none.
        MissingExtraError: transformers is not installed.
    """
    place = source(name, revision, trust_remote_code)
    if place.is_folder and not any(path for glob in TOKENIZERS for path in Path(name).glob(glob)):
        raise ModelError(f"{name} has no tokenizer: copy tokenizer.json and tokenizer_config.json beside the model")
    with told(place, "the tokenizer"):
        return library().AutoTokenizer.from_pretrained(**place.arguments)


def positions(name: str, *, revision: str | None = None, trust_remote_code: bool = False) -> int | None:
    """Return how many tokens a model takes, by its configuration; None where it does not say.

    Raises:
        ModelError: there is no configuration.
        MissingExtraError: transformers is not installed.
    """
    place = source(name, revision, trust_remote_code)
    with told(place, "the configuration"):
        config = library().AutoConfig.from_pretrained(**place.arguments).get_text_config()
    most: int | None = getattr(config, "max_position_embeddings", None)
    return most


def prepare(model: nn.Module, *, trained: Iterable[str] = (), checkpointing: bool = False) -> nn.Module:
    """Make a model of transformers ready, in place: linear for Conv1D, no cache, only ``trained`` is not frozen.

    Raises:
        ModelError: it has nothing to checkpoint.
    """
    conv1d = library("transformers.pytorch_utils").Conv1D
    for name, layer in [*model.named_modules()]:
        if type(layer) is conv1d:
            model.set_submodule(name, _linear(layer))
    model.requires_grad_(False)
    for name in trained:
        model.get_parameter(name).requires_grad_()
    config: Any = model.config
    config.use_cache = config.get_text_config().use_cache = False
    pad(model)
    if checkpointing:
        _checkpoint(model)
    return model


def pad(model: Any) -> None:
    """Name a token that a classifier takes for padding where none is named, since it refuses batches without one.

    It is the end of a text, if there is one: a classifier of the last token passes over such tokens at the end, and
    token 0 is "!" in the vocabulary of GPT-2.
    """
    config = model.config.get_text_config()
    if _is_named_classifier(model) and config.pad_token_id is None:
        end = config.eos_token_id
        first = end[0] if isinstance(end, list) else end
        config.pad_token_id = first if first is not None and first < config.vocab_size else 0


def transposed(model: nn.Module) -> tuple[str, ...]:
    """Return the keys of the weights that the library keeps transposed, in a ``Conv1D``."""
    conv1d = library("transformers.pytorch_utils").Conv1D
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        plain = type(model)(model.config)
    return tuple(f"{name}.weight" for name, layer in plain.named_modules() if type(layer) is conv1d)


def is_classifier(model: nn.Module) -> bool:
    """Say whether a model of transformers scores whole texts; else it scores the next token.

    Raises:
        ModelError: it does neither.
    """
    if _is_named_classifier(model):
        return True
    if getattr(model, "get_output_embeddings", lambda: None)() is None:
        raise ModelError(
            f"{type(model).__name__} scores neither the next token nor a whole text: load the model with "
            "fedloru.hf.load, whose task is 'causal' or 'classify'"
        )
    return False


def _is_named_classifier(model: nn.Module) -> bool:
    return type(model).__name__.endswith("ForSequenceClassification")


def _check_task(task: str, classes: Sequence[str]) -> None:
    if task not in get_args(Task):
        raise ConfigError([f"task is {task!r}, expected 'causal' or 'classify'"], "the model")
    if task == "causal" and classes:
        raise ConfigError(["classes are given, but a causal model has none: leave them out"], "the model")
    if task == "classify" and len(classes) < 2:
        raise ConfigError([f"{len(classes)} classes are given, but a classifier needs 2 or more"], "the model")


def read(
    place: Source, task: Task, classes: Sequence[str], dtype: torch.dtype, attention: Attention | None
) -> tuple[nn.Module, list[str]]:
    """Return the model as the library makes it, and the names of the parameters that were not read.

    Raises:
        ModelError: weights are missing.
    """
    found = library()
    known = found.AutoConfig.from_pretrained(**place.arguments)
    auto, labels = found.AutoModelForCausalLM, {}
    if task == "classify":
        auto, labels = found.AutoModelForSequenceClassification, dict(enumerate(classes))
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
    if lacking := sorted(absent - head):
        more = f" and {len(lacking) - SHOWN} more" if len(lacking) > SHOWN else ""
        raise ModelError(
            f"{place.name} lacks the weights {', '.join(lacking[:SHOWN])}{more} of a {type(model).__name__}: "
            "name a model that is whole, or one for this task"
        )
    if labels and dict(known.id2label) != labels:
        absent |= {name for name in head if not name.startswith(f"{model.base_model_prefix}.")}
    return model, sorted(absent)


def _head(model: nn.Module) -> set[str]:
    """Return the names of the parameters above the encoder, and of its pooler, which not every folder has."""
    base = f"{model.base_model_prefix}."
    return {name for name, _ in model.named_parameters() if not name.startswith(base) or "pooler" in name.split(".")}


def _draw(model: nn.Module, fresh: Iterable[str], seed: int) -> None:
    """Draw matrices from N(0, initializer_range²), each by its own name; vectors are at 0, or at 1 in a norm."""
    std = getattr(model.config, "initializer_range", 0.02)
    for name in fresh:
        parameter = model.get_parameter(name)
        if parameter.ndim > 1:
            drawn = torch.empty(parameter.shape).normal_(0, std, generator=gen(seed, "head", name))
            parameter.data = drawn.to(parameter)


def _linear(layer: Any) -> nn.Linear:
    i, o = layer.weight.shape
    linear = nn.Linear(i, o, device="meta")
    linear.weight = nn.Parameter(layer.weight.detach().T.contiguous(), layer.weight.requires_grad)
    linear.bias = layer.bias
    return linear.train(layer.training)


def _checkpoint(model: Any) -> None:
    try:
        model.activation_checkpointing_enable({"use_reentrant": False})
    except ValueError as error:
        raise ModelError(f"{error} Leave checkpointing out") from error
    model.disable_input_require_grads()  # only the reentrant kind needs gradients at the embeddings


@torch.no_grad()
def _refuse_looking_ahead(model: Any, name: str) -> None:
    """Refuse an encoder, whose scores of the next token would know that token."""
    ids = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 5]]) % model.config.get_text_config().vocab_size
    first, second = model(input_ids=ids).logits[:, :3].float()
    rounding = 10 * torch.finfo(next(model.parameters()).dtype).eps * float(first.abs().max())
    if not torch.allclose(first, second, rtol=0, atol=rounding):
        raise ModelError(
            f"{name} is a {type(model).__name__} that reads the tokens after the one it predicts, as an encoder does: "
            "use it for texts with classes, or name a causal model"
        )
