"""Tokenize texts: the tokens of an example, and those of them that the model is trained to predict.

There are three kinds of text. *Instruct*: a prompt and a response, or a conversation, with a loss only on the responses
and the end token after each. *Plain*: texts split into blocks of at most ``max_length`` tokens, with a loss on every
token. *Classify*: a text with a class. Longer instructions and texts with a class are truncated to ``max_length``
tokens, and counted.

Prompt and response are tokenized separately, so that training uses the same prompt tokens as generation. Conversations
are tokenized in ``turns``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

from fedloru.data.table import Table
from fedloru.errors import DataError
from fedloru.hf import turns
from fedloru.hf.blocks import IGNORED, Tokens, cut_into
from fedloru.hf.chat import Chat, template_of, time_of
from fedloru.hf.conversations import COLUMNS, conversations
from fedloru.hf.counts import Counts, Encoded, compared, fitted
from fedloru.hf.tables import strings
from fedloru.hf.templates import Columns, pairs, questions
from fedloru.settings import When
from fedloru.settings.types import Text, Texts

INSTRUCT, TEXT = When("kind", ("instruct",)), When("kind", ("classify", "plain"))
"""In a configuration, the columns of a kind of text have an effect for that kind only."""


class Instruct(NamedTuple):
    r"""A prompt, optionally with context, and a response; or a conversation.

    Args:
        prompt: the column of prompts, for the templates alpaca and chat.
        context: the column of additional context of the prompt, for the templates alpaca and chat.
        response: the column of responses.
        template: how the prompt is built: alpaca, chat (the template of the tokenizer), or a format string with columns
            in braces, such as 'Question: {question}\n'.
        messages: the column of conversations; by default messages, conversations or conversation, if there is no column
            of responses. They are written by the tokenizer's chat template.
        date: the date and time that a chat template prints, in ISO 8601; by default the start of the run.
    """

    prompt: Annotated[Text, INSTRUCT] = "prompt"
    context: Annotated[Text | None, INSTRUCT] = None
    response: Annotated[Text, INSTRUCT] = "response"
    template: Annotated[Text, INSTRUCT] = "alpaca"
    messages: Annotated[Text | None, INSTRUCT] = None
    date: Annotated[Text | None, INSTRUCT] = None

    def encode(self, tokenizer: Any, table: Table, where: str, max_length: int) -> Encoded:
        """Return each row as an example; rows whose prompt alone fills ``max_length`` tokens are dropped.

        Raises:
            DataError: a column, the template or the tokenizer cannot be used.
        """
        columns = Columns(self.prompt, self.context, self.response)
        name = self.conversations(table)
        if name is not None or self.template == "chat":
            chat = self._chat(tokenizer, name)
            rows = questions(table, columns, where) if name is None else conversations(table, name)
            begin = _begin(tokenizer) if template_of(tokenizer) is None else []  # a chat template writes this token
            return turns.encode(chat, rows, where, max_length, begin, _end(tokenizer))
        texts = pairs(table, columns, self.template, where)
        begin, end = _begin(tokenizer), _end(tokenizer)
        prompts, responses = (_tokens(tokenizer, each) for each in zip(*texts, strict=True))
        examples = [
            Tokens(row, begin + prompt + [*response, end], [IGNORED] * len(begin + prompt) + [*response, end])
            for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True))
        ]
        kept, counts = fitted(examples, max_length)
        return kept, counts.join(compared(tokenizer, texts))

    def conversations(self, table: Table) -> str | None:
        """Return the column of conversations that is read; None if prompts and responses are."""
        default = Instruct._field_defaults["response"]
        if self.messages is not None or self.response != default or default in table.column_names:
            return self.messages
        return next((name for name in COLUMNS if name in table.column_names), None)

    def _chat(self, tokenizer: Any, messages: str | None) -> Chat:
        if template_of(tokenizer) is None and self.template == "chat":
            others = "leave data.template out" if messages else "use 'alpaca' or a format string"
            raise DataError(f"data.template is 'chat', but the tokenizer has no chat template: {others}")
        if self.template not in ("alpaca", "chat"):
            raise DataError(
                f"data.template is a format string, but the conversations of the column {messages!r} are written by a "
                "chat template: leave data.template out, or name the column of responses in data.response"
            )
        return Chat(tokenizer, time_of(self.date))


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


def _end(tokenizer: Any) -> int:
    if tokenizer.eos_token_id is None:
        raise DataError(
            "the tokenizer has no end-of-sequence token (eos_token), so a model cannot learn to stop: set one"
        )
    end: int = tokenizer.eos_token_id
    return end
