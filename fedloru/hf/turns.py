"""Tokenize conversations, with a loss on the answers of the assistant and the end token after each of them.

A text is tokenized as a whole, as it is when the model is used. If a token spans the start or the end of an answer, the
text is tokenized in pieces instead, so that a loss never covers anything but answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from fedloru.errors import DataError
from fedloru.hf.blocks import IGNORED, Tokens
from fedloru.hf.chat import Chat, Written
from fedloru.hf.conversations import Message, has_answer
from fedloru.hf.counts import Counts, Encoded, compared, fitted


def encode(
    chat: Chat, conversations: Sequence[Sequence[Message]], where: str, max_length: int, begin: list[int], end: int
) -> Encoded:
    """Return conversations as examples that start with ``begin``; ``end`` follows an answer without an end token.

    Conversations in which the assistant says nothing are dropped.

    Raises:
        DataError: the chat template cannot be used for a conversation.
    """
    examples, pairs, counts = [], [], Counts(0)
    for row, given in enumerate(conversations):
        if not has_answer(given):
            counts = counts.join(Counts(0, unanswered=1))
            continue
        try:
            messages = chat.fitted(given)
            texts = chat.write(messages)
        except DataError as error:
            raise DataError(f"{where}, row {row} (from 0): {error}") from error
        counts = counts.join(Counts(0, merged=len(messages) < len(given), separate=len(texts) > 1))
        for text in texts:
            ids, labels = _tokens(chat.tokenizer, text)
            after = [] if text.ended else [end]
            examples.append(Tokens(row, begin + ids + after, [IGNORED] * len(begin) + labels + after))
        (start, stop), *_ = texts[0].answers
        pairs.append((texts[0].text[:start], texts[0].text[start:stop]))
    if not examples:
        raise DataError(
            f"{where}: the assistant says nothing in any conversation: name another column, or fix the roles"
        )
    kept, lengths = fitted(examples, max_length)
    return kept, counts.join(lengths).join(compared(chat.tokenizer, pairs))


def _tokens(tokenizer: Any, written: Written) -> tuple[list[int], list[int]]:
    """Return the tokens and the labels of a text."""
    if tokenizer.is_fast:
        made = tokenizer(written.text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        spans = made["offset_mapping"]
        bounds = {bound for answer in written.answers for bound in answer}
        if all(first < last and not any(first < bound < last for bound in bounds) for first, last in spans):
            inside = [any(start <= first and last <= stop for start, stop in written.answers) for first, last in spans]
            ids: list[int] = made["input_ids"]
            return ids, [token if answer else IGNORED for token, answer in zip(ids, inside, strict=True)]
    return _in_pieces(tokenizer, written)


def _in_pieces(tokenizer: Any, written: Written) -> tuple[list[int], list[int]]:
    ids: list[int] = []
    labels: list[int] = []
    cuts = [0, *(bound for answer in written.answers for bound in answer), len(written.text)]
    for number, (first, last) in enumerate(pairwise(cuts)):
        piece = tokenizer(written.text[first:last], add_special_tokens=False, verbose=False)["input_ids"]
        ids += piece
        labels += piece if number % 2 else [IGNORED] * len(piece)
    return ids, labels
