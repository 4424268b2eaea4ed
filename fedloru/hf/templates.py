"""From the columns of a table to prompts and the responses that are asked for.

A template is ``alpaca``, the prompts of Taori et al. (Stanford Alpaca, 2023) with and without context; ``chat``, the
tokenizer's own; or a format string whose names in braces are columns, ending where the response begins.
"""

from __future__ import annotations

from string import Formatter
from typing import Any, NamedTuple

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
    """Where prompts, what they are about, and responses stand."""

    prompt: str
    context: str | None
    response: str


class Pair(NamedTuple):
    """What a model is given, and what it should say."""

    prompt: str
    response: str


def pairs(table: Any, columns: Columns, template: str, tokenizer: Any, where: str) -> list[Pair]:
    """Return the pair of each row; ``columns.prompt`` and ``columns.context`` are not used by a format string.

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
        raise DataError("data.template is 'chat', but the tokenizer has no chat template; use 'alpaca', or your own")
    return [_chat(tokenizer, prompt, context.strip(), response) for prompt, context, response in rows]


def _alpaca(prompt: str, context: str) -> str:
    return ALPACA_WITH_CONTEXT.format(prompt=prompt, context=context) if context else ALPACA.format(prompt=prompt)


def _chat(tokenizer: Any, prompt: str, context: str, response: str) -> Pair:
    asked = [{"role": "user", "content": f"{prompt}\n\n{context}" if context else prompt}]
    answered = [*asked, {"role": "assistant", "content": response}]
    try:
        start = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        whole = tokenizer.apply_chat_template(answered, tokenize=False)
    except Exception as error:  # a template is a program of the model's author
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise DataError(f"the tokenizer's chat template fails ({reason}); use data.template = 'alpaca'") from error
    if not whole.startswith(start):
        raise DataError(
            "the tokenizer's chat template writes a prompt otherwise once it is answered, so the response cannot be "
            "told from it; use data.template = 'alpaca', or your own"
        )
    return Pair(start, whole[len(start) :])


def _formatted(table: Any, template: str, where: str) -> list[str]:
    try:
        parts = [(literal, name) for literal, name, _, _ in Formatter().parse(template)]
    except ValueError as error:
        raise DataError(
            f"data.template {template!r} cannot be read ({error}); write a brace that is no column as {{{{ or }}}}"
        ) from error
    names = {name for _, name in parts if name is not None}
    if not names:
        raise DataError(
            f"data.template {template!r} names no column; use 'alpaca', 'chat', or such as 'Question: {{question}}\\n'"
        )
    found = {name: strings(table, name, where, empty=True) for name in names}
    rows = range(table.num_rows)
    made = ["".join(text + (found[name][row] if name is not None else "") for text, name in parts) for row in rows]
    refuse_empty(made, template, where)
    return made
