"""The tokens at which generated text ends: those of the tokenizer, of its chat template, and of the model."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from fedloru.errors import DataError
from fedloru.hf.chat import Chat, template_of

log = logging.getLogger("fedloru")


def end_tokens(tokenizer: Any) -> list[int]:
    """Return the end-of-sequence token, and the token with which the chat template ends a turn, if there are any."""
    found = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    try:
        end = Chat(tokenizer, datetime(2000, 1, 1)).end if template_of(tokenizer) else ""
    except DataError:  # the template cannot be used, so no text has been written by it
        end = ""
    return list(dict.fromkeys([*found, *([tokenizer.convert_tokens_to_ids(end)] if end else [])]))


def model_ends(model: Any) -> list[int]:
    """Return the end tokens of the generation configuration and of the configuration of a model."""
    parts = [getattr(model, "generation_config", None), model.config, model.config.get_text_config()]
    return list(dict.fromkeys(token for part in parts for token in _listed(getattr(part, "eos_token_id", None))))


def note_ordinary(tokenizer: Any, ends: list[int]) -> None:
    """Log a warning about end tokens that are ordinary text to the tokenizer."""
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    if ordinary := [token for token in ends if token not in special]:
        shown = ", ".join(f"{token} ({tokenizer.decode([token])!r})" for token in ordinary)
        log.warning(
            "the model ends texts at the tokens %s, which its tokenizer does not list as special tokens: if they are "
            "not ends, correct eos_token_id in config.json and generation_config.json",
            shown,
        )


def _listed(ends: Any) -> Iterator[int]:
    """Yield a token, a list of tokens, or nothing."""
    for token in ends if isinstance(ends, list | tuple) else [ends]:
        if isinstance(token, int) and not isinstance(token, bool) and token >= 0:
            yield token
