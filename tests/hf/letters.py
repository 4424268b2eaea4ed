"""Character tokenizers, so that expected token counts can be checked by hand, and the texts they read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fedloru.data import Dataset
from fedloru.hf.encode import Instruct
from fedloru.hf.text import load

LETTERS = [chr(code) for code in range(32, 127)] + ["\n"]
UNK, BOS, EOS = 0, 1, 2
ASK = Instruct(response="answer", template="Q:{question}\nA:")
CHAT = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% if m['role'] == 'assistant' %}</s>\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def letters(**changes: Any) -> Any:
    """Return a tokenizer that starts texts with <s> and knows </s>, but has no padding token."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: number for number, token in enumerate(["<unk>", "<s>", "</s>", *LETTERS])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    made.decoder = decoders.Fuse()
    both = changes.pop("closed", False)  # like the tokenizer of an encoder, which also ends every text
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if both else "<s> $A", special_tokens=[("<s>", BOS), ("</s>", EOS)]
    )
    known = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"} | changes
    return PreTrainedTokenizerFast(tokenizer_object=made, **known)


def ids(text: str) -> list[int]:
    """Return the tokens of ``text``."""
    return [3 + LETTERS.index(letter) for letter in text]


def spelled(tokens: list[int]) -> str:
    """Return the text of ``tokens``, with ^ for the start and $ for the end of a text."""
    return "".join("?^$"[token] if token < 3 else LETTERS[token - 3] for token in tokens)


def write(path: Path, columns: dict[str, list[Any]], metadata: dict[str, str] | None = None) -> str:
    """Write columns as a parquet file, and return its path."""
    table = pa.table(columns)
    pq.write_table(table.replace_schema_metadata(metadata) if metadata else table, path)
    return str(path)


def pairs(tmp_path: Path, count: int = 6, **more: list[Any]) -> str:
    """Write questions with longer and longer answers, and return the path of the file."""
    questions = [f"what is {n}?" for n in range(count)]
    return write(
        tmp_path / "qa.parquet", {"question": questions, "answer": ["x" * n for n in range(1, count + 1)], **more}
    )


def loaded(tokenizer: Any, path: str, kind: Any, **settings: Any) -> Dataset:
    """Return the data set of a file of texts."""
    return load(tokenizer, path, kind, **{"test_fraction": 0.2, "max_length": 100, **settings})
