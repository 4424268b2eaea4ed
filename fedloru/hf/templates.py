"""Build prompts and responses from the columns of a table.

A template is ``alpaca``, the prompts of Taori et al. (Stanford Alpaca, 2023) with and without context; ``chat``, the
tokenizer's chat template; or a format string with column names in braces, which the response is appended to.
"""

from __future__ import annotations

from string import Formatter
from typing import Any, NamedTuple

from fedloru.data.table import Table
from fedloru.errors import DataError
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


def pairs(table: Table, columns: Columns, template: str, tokenizer: Any, where: str) -> list[Pair]:
    """Return the prompt and response of each row. A format string ignores ``columns.prompt`` and ``columns.context``.

    Raises:
        DataError: a column is missing or has empty texts, or the template cannot be used.
    """
    responses = strings(table, columns.response, where)
    if template not in ("alpaca", "chat"):
        return [Pair(*pair) for pair in zip(_formatted(table, template, where), responses, strict=True)]
    prompts = strings(table, columns.prompt, where)
    contexts = [""] * len(prompts)
    if columns.context is not None:
        contexts = strings(table, columns.context, where, empty=True)
    rows = zip(prompts, contexts, responses, strict=True)
    if template == "alpaca":
        return [Pair(_alpaca(prompt, context.strip()), response) for prompt, context, response in rows]
    if not getattr(tokenizer, "chat_template", None):
        raise DataError(
            "data.template is 'chat', but the tokenizer has no chat template: use 'alpaca' or a format string"
        )
    return [_chat(tokenizer, prompt, context.strip(), response) for prompt, context, response in rows]


def _alpaca(prompt: str, context: str) -> str:
    return ALPACA_WITH_CONTEXT.format(prompt=prompt, context=context) if context else ALPACA.format(prompt=prompt)


def _chat(tokenizer: Any, prompt: str, context: str, response: str) -> Pair:
    question = [{"role": "user", "content": f"{prompt}\n\n{context}" if context else prompt}]
    conversation = [*question, {"role": "assistant", "content": response}]
    try:
        start = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
        whole = tokenizer.apply_chat_template(conversation, tokenize=False)
    except Exception as error:  # a chat template is a program, so it can raise anything
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise DataError(f"the tokenizer's chat template fails ({reason}): use data.template = 'alpaca'") from error
    if not whole.startswith(start):
        raise DataError(
            "the tokenizer's chat template renders a prompt differently when a response follows, so the two cannot be "
            "separated: use data.template = 'alpaca' or a format string"
        )
    return Pair(start, whole[len(start) :])


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
    refuse_empty(prompts, template, where)
    return prompts
