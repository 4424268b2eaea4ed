"""Tokenize texts: the tokens of an example, and those of them that the model is trained to predict.

There are three kinds of text. *Instruct*: a prompt and a response, with a loss only on the response and the
end-of-sequence token after it. *Plain*: texts split into blocks of at most ``max_length`` tokens, with a loss on every
token. *Classify*: a text with a class. Longer instructions and texts with a class are truncated to ``max_length``
tokens, and counted.

Prompt and response are tokenized separately, so that training uses the same prompt tokens as generation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

from fedloru.data.table import Table
from fedloru.errors import DataError
from fedloru.hf.blocks import IGNORED, Tokens, cut_into
from fedloru.hf.tables import strings
from fedloru.hf.templates import Columns, pairs
from fedloru.settings import When
from fedloru.settings.types import Text, Texts


class Counts(NamedTuple):
    """Counts of all tokens, of truncated and dropped examples, and of empty texts."""

    tokens: int
    cut: int = 0
    dropped: int = 0
    empty: int = 0

    def join(self, other: Counts) -> Counts:
        """Return the sums of both counts."""
        return Counts(*(a + b for a, b in zip(self, other, strict=True)))


Encoded = tuple[list[Tokens], Counts]

INSTRUCT, TEXT = When("kind", ("instruct",)), When("kind", ("classify", "plain"))
"""In a configuration, the columns of a kind of text have an effect for that kind only."""


class Instruct(NamedTuple):
    r"""A prompt, optionally with context, and a response.

    Args:
        prompt: the column of prompts, for the templates alpaca and chat.
        context: the column of additional context of the prompt, for the templates alpaca and chat.
        response: the column of responses.
        template: how the prompt is built: alpaca, chat (the template of the tokenizer), or a format string with columns
            in braces, such as 'Question: {question}\n'.
    """

    prompt: Annotated[Text, INSTRUCT] = "prompt"
    context: Annotated[Text | None, INSTRUCT] = None
    response: Annotated[Text, INSTRUCT] = "response"
    template: Annotated[Text, INSTRUCT] = "alpaca"

    def encode(self, tokenizer: Any, table: Table, where: str, max_length: int) -> Encoded:
        """Return each row as an example; rows whose prompt alone fills ``max_length`` tokens are dropped.

        Raises:
            DataError: a column, the template or the tokenizer cannot be used.
        """
        prompts_and_responses = pairs(
            table, Columns(self.prompt, self.context, self.response), self.template, tokenizer, where
        )
        end = _end(tokenizer)
        chat = self.template == "chat"  # a chat template writes the first and the last token itself
        begin = [] if chat else _begin(tokenizer)
        prompts, responses = (_tokens(tokenizer, texts) for texts in zip(*prompts_and_responses, strict=True))
        examples, tokens, cut, dropped = [], 0, 0, 0
        for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
            prompt, response = begin + prompt, _ended(response, end) if chat else [*response, end]
            ids, labels = prompt + response, [IGNORED] * len(prompt) + response
            tokens += len(ids)
            if len(prompt) >= max_length:
                dropped += 1
                continue
            cut += len(ids) > max_length
            examples.append(Tokens(row, ids[:max_length], labels[:max_length]))
        return examples, Counts(tokens, cut, dropped)


class Plain(NamedTuple):
    """A text without a prompt; the model is trained to predict every token.

    Args:
        text: the column of texts.
    """

    text: Annotated[Text, TEXT] = "text"

    def encode(self, tokenizer: Any, table: Table, where: str, max_length: int) -> Encoded:
        """Return each row as one or more blocks of at most ``max_length`` tokens; empty texts are skipped.

        Raises:
            DataError: the column or the tokenizer cannot be used.
        """
        begin, end = _begin(tokenizer), _end(tokenizer)
        examples, tokens = [], 0
        texts = strings(table, self.text, where, empty=True)
        nonempty = [row for row, text in enumerate(texts) if text.strip()]
        for row, ids in zip(nonempty, _tokens(tokenizer, [texts[row] for row in nonempty]), strict=True):
            whole = [*begin, *ids, end]
            tokens += len(whole)
            examples += [Tokens(row, block, block) for block in cut_into(whole, max_length)]
        return examples, Counts(tokens, empty=len(texts) - len(nonempty))


class Classify(NamedTuple):
    """A text and its class.

    Args:
        text: the column of texts.
        label: the column of classes.
        labels: the names of the classes in order, which the labels must have as values or be positions in; by default
            those of the source, or sorted.
    """

    text: Annotated[Text, TEXT] = "text"
    label: Annotated[Text, When("kind", ("classify",))] = "label"
    labels: Annotated[Texts, When("kind", ("classify",))] = ()

    def encode(self, tokenizer: Any, table: Table, where: str, max_length: int) -> Encoded:
        """Return each row with the special tokens that the tokenizer adds around a text.

        Raises:
            DataError: the column cannot be used.
        """
        texts = strings(table, self.text, where)
        whole = tokenizer(texts, verbose=False)["input_ids"]
        long = [row for row, ids in enumerate(whole) if len(ids) > max_length]
        tokens = sum(map(len, whole))
        if long:  # the tokenizer keeps the special tokens at the end of a truncated text
            shorter = tokenizer([texts[row] for row in long], truncation=True, max_length=max_length)["input_ids"]
            for row, ids in zip(long, shorter, strict=True):
                whole[row] = ids
        return [Tokens(row, ids, []) for row, ids in enumerate(whole)], Counts(tokens, cut=len(long))


Kind = Instruct | Plain | Classify


def _tokens(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    ids: list[list[int]] = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def _begin(tokenizer: Any) -> list[int]:
    """Return the beginning-of-sequence token as a list; empty if the tokenizer does not add one."""
    return [token for token in tokenizer("")["input_ids"] if token == tokenizer.bos_token_id][:1]


def _ended(response: list[int], end: int) -> list[int]:
    """Return ``response`` with ``end`` as its last token; tokens that a chat template writes after it are dropped."""
    return response[: len(response) - response[::-1].index(end)] if end in response else [*response, end]


def _end(tokenizer: Any) -> int:
    if tokenizer.eos_token_id is None:
        raise DataError(
            "the tokenizer has no end-of-sequence token (eos_token), so a model cannot learn to stop: set one"
        )
    end: int = tokenizer.eos_token_id
    return end
