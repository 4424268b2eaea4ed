"""From texts to tokens: what a model reads of an example, and which of its tokens it should learn to say.

Three kinds of text. *Instruct*: a prompt and a response, with a loss on the response alone, which ends with the token
that ends a text. *Plain*: texts cut into blocks of at most ``max_length`` tokens, with a loss on all of them.
*Classify*: a text with a class. What is longer than ``max_length`` is cut at its end, and counted.

Prompt and response are tokenised apart, so that a model is trained on the very tokens it is given when it writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from fedloru.errors import DataError
from fedloru.hf.blocks import IGNORED, Tokens, cut_into
from fedloru.hf.tables import strings
from fedloru.hf.templates import Columns, pairs


class Counts(NamedTuple):
    """What texts came to: their tokens in all, examples that were cut or dropped, and texts that were empty."""

    tokens: int
    cut: int = 0
    dropped: int = 0
    empty: int = 0

    def join(self, other: Counts) -> Counts:
        """Return what both came to."""
        return Counts(*(a + b for a, b in zip(self, other, strict=True)))


Encoded = tuple[list[Tokens], Counts]


class Instruct(NamedTuple):
    """A prompt, perhaps with context, and a response; ``template`` makes the prompt of the columns."""

    prompt: str = "prompt"
    context: str | None = None
    response: str = "response"
    template: str = "alpaca"

    def encode(self, tokenizer: Any, table: Any, where: str, max_length: int) -> Encoded:
        """Return each row as an example; one whose whole response is beyond ``max_length`` is dropped.

        Raises:
            DataError: a column, the template or the tokenizer does not serve.
        """
        found = pairs(table, Columns(self.prompt, self.context, self.response), self.template, tokenizer, where)
        end = _end(tokenizer)
        chat = self.template == "chat"  # which writes the first and the last token itself
        begin = [] if chat else _begin(tokenizer)
        prompts, responses = (_tokens(tokenizer, texts) for texts in zip(*found, strict=True))
        examples, tokens, cut, dropped = [], 0, 0, 0
        for row, (asked, said) in enumerate(zip(prompts, responses, strict=True)):
            prompt, response = begin + asked, _ended(said, end) if chat else [*said, end]
            ids, labels = prompt + response, [IGNORED] * len(prompt) + response
            tokens += len(ids)
            if len(prompt) >= max_length:
                dropped += 1
                continue
            cut += len(ids) > max_length
            examples.append(Tokens(row, ids[:max_length], labels[:max_length]))
        return examples, Counts(tokens, cut, dropped)


class Plain(NamedTuple):
    """A text to go on with, token by token."""

    text: str = "text"

    def encode(self, tokenizer: Any, table: Any, where: str, max_length: int) -> Encoded:
        """Return each row in blocks of at most ``max_length`` tokens.

        Empty texts are left out.

        Raises:
            DataError: the column or the tokenizer does not serve.
        """
        begin, end = _begin(tokenizer), _end(tokenizer)
        examples, tokens = [], 0
        texts = strings(table, self.text, where, empty=True)
        full = [row for row, text in enumerate(texts) if text.strip()]
        for row, ids in zip(full, _tokens(tokenizer, [texts[row] for row in full]), strict=True):
            whole = [*begin, *ids, end]
            tokens += len(whole)
            examples += [Tokens(row, block, block) for block in cut_into(whole, max_length)]
        return examples, Counts(tokens, empty=len(texts) - len(full))


class Classify(NamedTuple):
    """A text and its class; ``labels`` names the classes in order (): those of the source, or sorted."""

    text: str = "text"
    label: str = "label"
    labels: tuple[str, ...] = ()

    def encode(self, tokenizer: Any, table: Any, where: str, max_length: int) -> Encoded:
        """Return each row with the tokens that the tokenizer puts around a text.

        Raises:
            DataError: the column does not serve.
        """
        texts = strings(table, self.text, where)
        whole = tokenizer(texts, verbose=False)["input_ids"]
        long = [row for row, ids in enumerate(whole) if len(ids) > max_length]
        tokens = sum(map(len, whole))
        if long:  # the tokenizer knows which tokens at the end of a text must stay
            shorter = tokenizer([texts[row] for row in long], truncation=True, max_length=max_length)["input_ids"]
            for row, ids in zip(long, shorter, strict=True):
                whole[row] = ids
        return [Tokens(row, ids, []) for row, ids in enumerate(whole)], Counts(tokens, cut=len(long))


Kind = Instruct | Plain | Classify


def _tokens(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    found: list[list[int]] = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    return found


def _begin(tokenizer: Any) -> list[int]:
    """Return the token that the tokenizer begins a text with, if it does."""
    return [token for token in tokenizer("")["input_ids"] if token == tokenizer.bos_token_id][:1]


def _ended(said: list[int], end: int) -> list[int]:
    """Return a response with ``end`` as its last token, without what a chat template writes after that."""
    return said[: len(said) - said[::-1].index(end)] if end in said else [*said, end]


def _end(tokenizer: Any) -> int:
    if tokenizer.eos_token_id is None:
        raise DataError("the tokenizer has no token for the end of a text (eos_token), so a model cannot learn to stop")
    end: int = tokenizer.eos_token_id
    return end
