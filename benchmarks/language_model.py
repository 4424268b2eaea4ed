"""Measure the cost of settings for a language model of the size of SmolLM2-135M: seconds per round and peak memory.

    python benchmarks/language_model.py [--engine auto] [--checkpointing] [--dtype float32] [--out DIR]

It needs no files; llm.py trains pretrained models on real texts. The model is randomly initialized: a Llama of 30
layers, hidden size 576, 9 query heads and 3 key-value heads, and a vocabulary of 49,152, with tied embeddings. In each
round, four of eight clients take two steps on one text of 128 tokens each, and four texts are evaluated; the second
round merges. Requires the extra ``hf``.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

import fedloru as fl
from fedloru.data import Dataset, Examples
from fedloru.run.summary import peak_rss

VOCABULARY, TOKENS, CLIENTS = 49_152, 128, 8


def main() -> None:
    """Print one line per round, and the peak memory at the end."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--engine", choices=["auto", "sequential", "fused"], default="auto")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", help="write a run folder")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder))
        model = fl.hf.load(folder, dtype=getattr(torch, args.dtype), checkpointing=args.checkpointing)
    net = fl.hf.attach(model, rank=8)
    del model
    data = Dataset("random tokens", texts(2 * CLIENTS, seed=0), texts(4, seed=1), ())
    run = fl.run(
        net,
        fl.fedloru(recipe="paper", tau=2),
        data,
        fl.data.iid(data, clients=CLIENTS),
        rounds=args.rounds,
        cohort=4,
        recipe=fl.Recipe("adamw", lr=1e-3, steps=2, batch_size=1),
        engine=args.engine,
        out=args.out,
    )
    print(f"{run.engine.name}: {run.engine.reason}")
    for row in run:
        print(f"round {row['round']}: {row['seconds']:.1f} s, train loss {row['train_loss']:.4f}")
    print(f"peak memory {(peak_rss() or 0) / 1e9:.2f} GB")


def save(folder: Path) -> None:
    """Write the untrained model to ``folder``."""
    from transformers import LlamaConfig, LlamaForCausalLM

    size = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30}
    heads = {"num_attention_heads": 9, "num_key_value_heads": 3}
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **size, **heads, tie_word_embeddings=True)).save_pretrained(
        folder
    )


def texts(count: int, seed: int) -> Examples:
    """Return texts of random tokens, all of the same length."""
    ids = torch.randint(0, VOCABULARY, (count, TOKENS), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids, "length": torch.full((count,), TOKENS), "labels": ids.clone()}


if __name__ == "__main__":
    main()
