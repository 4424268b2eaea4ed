"""Build prompts and responses from the columns of a table.

A template is ``alpaca``, the prompts of Taori et al. (Stanford Alpaca, 2023) with and without context; ``chat``, the
tokenizer's chat template, for which a row is a conversation; or a format string with column names in braces, which the
response is appended to.
"""

from __future__ import annotations

from collections.abc import Iterator
from string import Formatter
from typing import Any, NamedTuple

from fedloru.data.table import Table
from fedloru.errors import DataError
from fedloru.hf.conversations import ASSISTANT, USER, Message
from fedloru.hf.tables import refuse_empty, strings

ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{prompt}\n\n### Response:\n"
)
ALPACA_WITH_CONTEXT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{prompt}\n\n### Input:\n{context}\n\n### Response:\n"
)


class Columns(NamedTuple):
    """The names of the columns of prompts, contexts and responses."""

    prompt: str
    context: str | None
    response: str


class Pair(NamedTuple):
    """A prompt and the expected response."""

    prompt: str
    response: str


def pairs(table: Table, columns: Columns, template: str, where: str) -> list[Pair]:
    """Return the prompt and response of each row. A format string ignores ``columns.prompt`` and ``columns.context``.

    Raises:
        DataError: a column is missing or has empty texts, or the template cannot be used.
    """
    if template != "alpaca":
        responses = strings(table, columns.response, where)
        return [Pair(*pair) for pair in zip(_formatted(table, template, where), responses, strict=True)]
    return [Pair(_alpaca(prompt, context), response) for prompt, context, response in _rows(table, columns, where)]


def questions(table: Any, columns: Columns, where: str) -> list[list[Message]]:
    """Return each row as a conversation of a question, with its context, and an answer.

    Raises:
        DataError: a column is missing or has empty texts.
    """
    return [
        [
            {"role": USER, "content": f"{prompt}\n\n{context}" if context else prompt},
            {"role": ASSISTANT, "content": response},
        ]
        for prompt, context, response in _rows(table, columns, where)
    ]


def _rows(table: Any, columns: Columns, where: str) -> Iterator[tuple[str, str, str]]:
    """Return the prompt, the context ("" if there is none) and the response of each row."""
    responses = strings(table, columns.response, where)
    prompts = strings(table, columns.prompt, where)
    contexts = [""] * len(prompts)
    if columns.context is not None:
        contexts = [context.strip() for context in strings(table, columns.context, where, empty=True)]
    return zip(prompts, contexts, responses, strict=True)


def _alpaca(prompt: str, context: str) -> str:
    return ALPACA_WITH_CONTEXT.format(prompt=prompt, context=context) if context else ALPACA.format(prompt=prompt)


def _formatted(table: Table, template: str, where: str) -> list[str]:
    try:
        parts = [(literal, name) for literal, name, _, _ in Formatter().parse(template)]
    except ValueError as error:
        raise DataError(
            f"data.template {template!r} is not a valid format string ({error}): write literal braces as {{{{ and }}}}"
        ) from error
    names = {name for _, name in parts if name is not None}
    if not names:
        raise DataError(
            f"data.template {template!r} names no column: use 'alpaca', 'chat', or a format string such as "
            "'Question: {question}\\n'"
        )
    values = {name: strings(table, name, where, empty=True) for name in names}
    rows = range(table.num_rows)
    prompts = ["".join(text + (values[name][row] if name is not None else "") for text, name in parts) for row in rows]
    refuse_empty(table, prompts, template, where)
    return prompts
