"""Count what happens to texts when they are tokenized, and say what the user should know about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from fedloru.errors import counted
from fedloru.hf.blocks import IGNORED, Tokens

SAMPLED = 100
"""The number of prompts that are compared with how they are tokenized in front of their responses."""


class Counts(NamedTuple):
    """Counts of all tokens, of truncated and dropped examples, of empty texts, and of unusual rows.

    ``unanswered`` conversations have no answer, ``merged`` system prompts became part of a user's message, and
    ``separate`` conversations became one example per answer. Of ``sampled`` prompts, ``changed`` are tokenized
    differently in front of their response; ``tail`` is the end of such a prompt.
    """

    tokens: int
    cut: int = 0
    dropped: int = 0
    empty: int = 0
    unanswered: int = 0
    merged: int = 0
    separate: int = 0
    sampled: int = 0
    changed: int = 0
    tail: str = ""

    def join(self, other: Counts) -> Counts:
        """Return the sums of both counts, and the first tail."""
        sums = {name: getattr(self, name) + getattr(other, name) for name in self._fields if name != "tail"}
        return Counts(**sums, tail=self.tail or other.tail)


Encoded = tuple[list[Tokens], Counts]


def fitted(examples: Sequence[Tokens], max_length: int) -> Encoded:
    """Truncate examples to ``max_length`` tokens, and drop those that have no label then."""
    short = [example._replace(ids=example.ids[:max_length], labels=example.labels[:max_length]) for example in examples]
    kept = [example for example in short if any(label != IGNORED for label in example.labels)]
    dropped = {id(example) for example in short} - {id(example) for example in kept}
    long = sum(
        len(whole.ids) > max_length and id(example) not in dropped
        for whole, example in zip(examples, short, strict=True)
    )
    return kept, Counts(sum(len(example.ids) for example in examples), long, len(dropped))


def compared(tokenizer: Any, pairs: Sequence[tuple[str, str]]) -> Counts:
    """Count the prompts that are tokenized differently in front of their response, in a sample of ``pairs``."""
    sample = pairs[:SAMPLED]
    if not sample:
        return Counts(0)
    texts = [*(prompt for prompt, _ in sample), *(prompt + response for prompt, response in sample)]
    ids = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    changed = [
        prompt
        for (prompt, _), alone, whole in zip(sample, ids[: len(sample)], ids[len(sample) :], strict=True)
        if whole[: len(alone)] != alone
    ]
    return Counts(0, sampled=len(sample), changed=len(changed), tail=_tail(changed[0]) if changed else "")


def warnings(counts: Counts, max_length: int, lost: int) -> Iterator[str]:
    """Yield what the user should know; ``lost`` is the number of tokens that were cut or dropped."""
    if counts.cut or counts.dropped:
        cut = counted(counts.cut, "example was", "examples were")
        message = f"{cut} longer than data.max_length = {max_length} and truncated"
        more = f", and {counts.dropped:,} more were dropped because nothing of their response fits"
        message += more if counts.dropped else ""
        yield f"{message}; {lost:,} of {counts.tokens:,} tokens were lost"
    if counts.empty:
        yield f"{counted(counts.empty, 'empty text was', 'empty texts were')} skipped"
    if counts.unanswered:
        dropped = counted(counts.unanswered, "conversation")
        yield f"dropped {dropped} in which the assistant says nothing"
    if counts.merged:
        yield (
            f"the chat template has no place for a system prompt, so {counts.merged:,} of them were put in front of "
            "the user's first message"
        )
    if counts.separate:
        yield (
            f"the chat template changes or does not end earlier turns of the assistant, so {counts.separate:,} "
            "conversations became one example for each of these turns"
        )
    if 10 * counts.changed >= max(counts.sampled, 1):
        remedy = "end data.template with a newline" if counts.tail.isspace() else "end the prompt with a newline"
        yield (
            f"the end of {counts.changed:,} of {counts.sampled:,} prompts, {counts.tail!r}, is tokenized together with "
            f"the start of the response, which makes its first token hard to predict: {remedy}"
        )


def _tail(prompt: str) -> str:
    """Return the white space at the end of a prompt, or its last character if there is none."""
    return prompt[len(prompt.rstrip()) :] or prompt[-1:]
