"""Tiny models of four families, created from configurations, and texts of random tokens to train them on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from fedloru import hf
from fedloru.data import Examples
from fedloru.net import Net
from tests.engine.cohort import SIZES

WORDS, LONGEST, CLASSES = 60, 9, 3
_SIZE = {"vocab_size": WORDS, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 16, "pad_token_id": 0}


def _llama(tf: Any) -> nn.Module:
    return tf.LlamaForCausalLM(tf.LlamaConfig(**_SIZE, **_HEADS, attention_dropout=0.1))


def _gpt2(tf: Any) -> nn.Module:
    size = {"vocab_size": WORDS, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 16}
    return tf.GPT2LMHeadModel(tf.GPT2Config(**size, bos_token_id=1, eos_token_id=1))


def _bert(tf: Any) -> nn.Module:
    heads = {"num_attention_heads": 4, "max_position_embeddings": 16, "num_labels": CLASSES}
    return tf.BertForSequenceClassification(tf.BertConfig(**_SIZE, **heads))


def _qwen3(tf: Any) -> nn.Module:
    return tf.Qwen3ForCausalLM(tf.Qwen3Config(**_SIZE, **_HEADS, head_dim=8, tie_word_embeddings=True))


FAMILIES: dict[str, Callable[[Any], nn.Module]] = {"llama": _llama, "gpt2": _gpt2, "bert": _bert, "qwen3": _qwen3}
"""Llama has attention dropout, GPT-2 and BERT have dropout everywhere; GPT-2 and Qwen3 have a tied head."""


def model(family: str, *, checkpointing: bool = False, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Return a prepared model, always with the same weights; BERT's head is trained."""
    import transformers

    with torch.random.fork_rng():
        torch.manual_seed(1)
        made = FAMILIES[family](transformers).to(dtype)
    trained = [name for name, _ in made.named_parameters() if name.startswith("classifier.")]
    return hf.prepare(made, trained=trained, checkpointing=checkpointing)


def net(family: str, *, dropout: float = 0.1, **settings: Any) -> Net:
    """Return a net with factors in the default layers."""
    return hf.attach(model(family, **settings), rank=2, alpha=3.0, dropout=dropout)


def texts(family: str) -> Examples:
    """Return texts of 3 to 9 tokens for all clients; for a causal model, the first two tokens are the prompt."""
    g = torch.Generator().manual_seed(6)
    ids = torch.randint(2, WORDS, (sum(SIZES), LONGEST), generator=g)
    length = torch.randint(3, LONGEST + 1, (sum(SIZES),), generator=g)
    at = torch.arange(LONGEST)
    ids[at >= length[:, None]] = 0
    if family == "bert":
        return {"input_ids": ids, "length": length, "y": ids[:, 0] % CLASSES}
    labels = ids.masked_fill((at < 2) | (at >= length[:, None]), -100)
    return {"input_ids": ids, "length": length, "labels": labels}
