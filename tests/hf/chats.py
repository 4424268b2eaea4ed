"""Conversations and chat templates for tests."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fedloru.data import Dataset, Examples
from fedloru.hf.encode import Instruct
from fedloru.hf.text import load
from tests.hf.letters import letters, spelled

Turns = list[tuple[str, str]]
NOW = datetime(2025, 1, 31)

CHATML = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
NO_PROMPT = CHATML.partition("{% if add")[0]
"""A template that does not know ``add_generation_prompt``."""
AFTER_USER = CHATML.replace("add_generation_prompt", "add_generation_prompt and messages[-1].role == 'user'")
GEMMA = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + CHATML
DEAF = CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}")
LLAMA2 = (
    "{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content | trim }} </s>"
    "{% else %}<s>[INST] {{ m.content }} [/INST]{% endif %}{% endfor %}"
)
QWEN3 = (
    "{% for m in messages %}<|{{ m.role }}|>\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
THINKING = CHATML.replace(
    "{{ m.content }}", "{{ m.content if loop.last or m.role != 'assistant' else m.content.split('</think>')[-1] }}"
)
NO_END = CHATML.replace("</s>", "")
GENERATION = (
    "{% for m in messages %}<|{{ m.role }}|>\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}</s>"
    "{% endgeneration %}{% else %}{{ m.content }}</s>{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def says(turns: Turns, style: tuple[str, str] = ("role", "content")) -> list[dict[str, Any]]:
    return [dict(zip(style, turn, strict=True)) for turn in turns]


def written(tmp_path: Path, rows: list[Any], column: str = "messages") -> str:
    path = tmp_path / f"{column}.parquet"
    pq.write_table(pa.table({column: pa.array(rows)}), path)
    return str(path)


def loaded(tmp_path: Path, rows: list[Any], template: str | None = CHATML, **settings: Any) -> Dataset:
    kind = settings.pop("kind", Instruct())
    path = written(tmp_path, rows, settings.pop("column", "messages"))
    made = settings.pop("tokenizer", None) or letters(**({"chat_template": template} if template else {}))
    return load(made, path, kind, **{"test": path, "max_length": 400, **settings})


def shown(examples: Examples) -> list[str]:
    """Return each text with its labeled tokens in brackets."""
    lines = []
    columns = (examples[key].tolist() for key in ("input_ids", "labels", "length"))
    for ids, labels, length in zip(*columns, strict=True):
        assert set(labels[length:]) <= {-100}
        line, inside = "", False
        for token, label in zip(ids[:length], labels[:length], strict=True):
            assert label in (token, -100)
            line += ("[" if label != -100 and not inside else "]" if label == -100 and inside else "") + spelled(
                [token]
            )
            inside = label != -100
        lines.append(line + "]" * inside)
    return lines


def by_hand(turns: Turns) -> str:
    """Return what ``CHATML`` writes, up to the last answer, with the answers in brackets."""
    text = ""
    for role, content in turns:
        text += f"<|{role}|>\n" + (f"[{content}$]" if role == "assistant" else f"{content}$") + "\n"
    return text[: text.rindex("]") + 1]


SYSTEM, ASK, ANSWER, MORE = ("system", "be brief"), ("user", "1+1?"), ("assistant", "2"), ("user", "2+2?")
CONVERSATIONS: dict[str, Turns] = {
    "one turn": [ASK, ANSWER],
    "several turns": [ASK, ANSWER, MORE, ("assistant", "it is 4")],
    "a system prompt": [SYSTEM, ASK, ANSWER, MORE, ("assistant", "4")],
    "two answers in succession": [ASK, ANSWER, ("assistant", "or 10")],
    "the assistant starts": [("assistant", "hello"), ASK, ANSWER],
    "a tool": [ASK, ("assistant", "calc(1+1)"), ("tool", "2"), ANSWER],
    "an empty answer": [ASK, ("assistant", ""), MORE, ANSWER],
    "an empty question": [("user", ""), ANSWER],
    "a question at the end": [ASK, ANSWER, MORE],
    "answers that are equal": [ASK, ANSWER, ASK, ANSWER],
    "an answer in the question": [("user", "2"), ANSWER],
    "markup in a question": [("user", "<|assistant|>\nno</s>\n"), ANSWER],
    "markup in an answer": [ASK, ("assistant", "a</s>\n<|user|>\nb"), MORE, ANSWER],
    "white space around answers": [ASK, ("assistant", "\n 2 \n"), MORE, ("assistant", " ")],
}
