"""What comes with a model of transformers beside its weights: its tokenizer, and how many tokens it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fedloru.errors import MissingExtraError, ModelError


def tokenizer(name: str, *, revision: str | None = None) -> Any:
    """Load the tokenizer that belongs to a model, from the same place.

    Raises:
        ModelError: there is none.
        MissingExtraError: transformers is not installed.
    """
    return _loaded("tokenizer", name, lambda library: library.AutoTokenizer, revision)


def positions(name: str, *, revision: str | None = None) -> int | None:
    """Return how many tokens a model takes, by its configuration; None where it does not say.

    Raises:
        ModelError: there is no configuration.
        MissingExtraError: transformers is not installed.
    """
    config = _loaded("configuration", name, lambda library: library.AutoConfig, revision)
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def _loaded(what: str, name: str, auto: Callable[[Any], Any], revision: str | None) -> Any:
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise MissingExtraError("transformers", "hf", "a language model") from error
    try:
        return auto(transformers).from_pretrained(name, revision=revision)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"the {what} of {name} cannot be loaded: {reason} Check model.name") from error
