"""Write conversations by a chat template, and find the turns of the assistant in them.

A chat template is a program. What it writes for the messages so far is compared with what it writes for one more, so a
turn of the assistant is exactly the text that the model writes after the prompt that it gets when it is used. If a
template changes earlier turns as a conversation goes on (Qwen3 removes their thoughts), each turn becomes an example.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cache, cached_property
from typing import Any, NamedTuple

from fedloru.errors import DataError
from fedloru.hf.conversations import ASSISTANT, USER, Message, is_answer, without_system
from fedloru.hf.source import library

PLAIN = (
    "{% for message in messages %}### {{ message['role'] | capitalize }}:\n{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n\n' }}{% endfor %}"
    "{% if add_generation_prompt %}### Assistant:\n{% endif %}"
)
"""The chat template of tokenizers that have none."""
CLOCK = "strftime_now"
"""The function with which a chat template prints the date."""
PROBE = "fedloru"
USE_ANOTHER = "use data.template = 'alpaca' or a format string"


class Written(NamedTuple):
    """A conversation as text, and the answers in it as pairs of start and stop, in characters.

    ``ended`` is False if the template writes no end token after the last answer.
    """

    text: str
    answers: tuple[tuple[int, int], ...]
    ended: bool


class Chat:
    """The chat template of a tokenizer, or ``PLAIN`` if it has none, at a fixed time.

    Raises:
        DataError: the template fails, or writes a prompt differently when a response follows.
    """

    def __init__(self, tokenizer: Any, now: datetime) -> None:
        self.tokenizer, self.now = tokenizer, now
        self.template = template_of(tokenizer) or PLAIN

    def render(self, messages: Sequence[Message], *, prompt: bool = False) -> str:
        """Return the text of ``messages``, with ``prompt`` followed by the start of the assistant's next turn.

        Raises:
            DataError: the template fails.
        """
        try:
            with _fixed(self.now):
                text: str = self.tokenizer.apply_chat_template(
                    list(messages), chat_template=self.template, tokenize=False, add_generation_prompt=prompt
                )
        except Exception as error:  # a chat template is a program, so it can raise anything
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise DataError(f"the tokenizer's chat template fails ({reason}): {USE_ANOTHER}") from error
        return text

    def write(self, messages: Sequence[Message]) -> list[Written]:
        """Return a conversation as one text or, if earlier turns change, as one text for each answer.

        Raises:
            DataError: the template fails, leaves something out, or its turns cannot be separated.
        """
        whole = self.render(messages)
        parts = [
            (self.render(messages[: number + 1]), self._start(messages[: number + 1]))
            for number, message in enumerate(messages)
            if is_answer(message)
        ]
        answers = [(start, self._stop(text, start)) for text, start in parts]
        ended = [text[start:stop].endswith(self.end) for (text, _), (start, stop) in zip(parts, answers, strict=True)]
        stable = all(whole.startswith(text) for text, _ in parts)
        if stable and self.end and all(ended):
            written = [Written(whole[: answers[-1][1]], tuple(answers), True)]  # what follows the last one is not used
        else:
            lone = zip(parts, answers, ended, strict=True)
            written = [Written(text[: answer[1]], (answer,), bool(self.end) and yes) for (text, _), answer, yes in lone]
        self._check_complete(messages, written)
        return written

    def fitted(self, messages: Sequence[Message]) -> list[Message]:
        """Return ``messages``, with the system prompt in the first user's message if the template has no place for it.

        Raises:
            DataError: the template fails.
        """
        merged = without_system(messages)
        if merged is None:
            return list(messages)
        try:
            whole = self.render(messages)
            lost = not _holds(whole, messages[0]["content"]) or whole == self.render(messages[1:])
        except DataError:
            lost = True
        return merged if lost else list(messages)

    @cached_property
    def end(self) -> str:
        """The token that ends a turn, as text; "" if the template writes none."""
        text, start, _ = self._probe
        special = {*self.tokenizer.all_special_ids, *self.tokenizer.added_tokens_decoder}
        tokens = self.tokenizer(text[start + len(PROBE) :], add_special_tokens=False, verbose=False)["input_ids"]
        token = next((token for token in tokens if token in special), None)
        return "" if token is None else str(self.tokenizer.convert_ids_to_tokens(token))

    @cached_property
    def header(self) -> str:
        """The text in front of an answer that belongs to the prompt."""
        return self._probe[2]

    @cached_property
    def _probe(self) -> tuple[str, int, str]:
        """A conversation with the answer ``PROBE``, the start of the answer, and the header in front of it."""
        question = [{"role": USER, "content": "?"}]
        closed, opened = self.render(question), self.render(question, prompt=True)
        text = self.render([*question, {"role": ASSISTANT, "content": PROBE}])
        if not text.startswith(opened) or PROBE not in text[len(opened) :]:
            raise DataError(
                "the tokenizer's chat template renders a prompt differently when a response follows, so the two "
                f"cannot be separated: {USE_ANOTHER}"
            )
        start = text.index(PROBE, len(opened))
        headers = [opened[len(closed) :] if opened.startswith(closed) else "", text[len(opened) : start]]
        return text, start, next((header for header in headers if header.strip()), "")

    def _start(self, messages: Sequence[Message]) -> int:
        """Return where the last of ``messages``, an answer, starts in their text."""
        *history, answer = messages
        text = self.render(messages)
        start = self._after(history, text) if history else self._first(text)
        if not _holds(text[start:], answer["content"]):
            raise DataError(f"the tokenizer's chat template leaves out a part of an assistant's turn: {USE_ANOTHER}")
        return start

    def _after(self, history: Sequence[Message], text: str) -> int:
        prompt = self.render(history, prompt=True)
        if not text.startswith(prompt):
            raise DataError(
                "the tokenizer's chat template renders a prompt differently when a response follows, so the two "
                f"cannot be separated: {USE_ANOTHER}"
            )
        has_header = prompt != self.render(history) or not text.startswith(self.header, len(prompt))
        return len(prompt) + (0 if has_header else len(self.header))

    def _first(self, text: str) -> int:
        """Return where an answer without a prompt starts."""
        if not self.header or self.header not in text:
            raise DataError(
                "a conversation starts with the assistant, but the tokenizer's chat template does not mark where its "
                f"turn starts: drop these rows, or {USE_ANOTHER}"
            )
        return text.index(self.header) + len(self.header)

    def _stop(self, text: str, start: int) -> int:
        """Return where an answer stops: after its end token, if it has one."""
        found = text.rfind(self.end, start) if self.end else -1
        return len(text) if found < 0 else found + len(self.end)

    def _check_complete(self, messages: Sequence[Message], written: Sequence[Written]) -> None:
        """Raise DataError if a message is lost; turns of the assistant may be shortened, such as by their thoughts."""
        last = max(number for number, message in enumerate(messages) if is_answer(message))
        for number, message in enumerate(messages[:last]):
            if message["role"] == ASSISTANT or not message["content"].strip():
                continue
            if not any(_holds(each.text, message["content"]) for each in written) or self._ignores(messages, number):
                raise DataError(
                    f"the tokenizer's chat template leaves out a message of the role {message['role']!r}: drop "
                    f"these messages, or {USE_ANOTHER}"
                )

    def _ignores(self, messages: Sequence[Message], number: int) -> bool:
        """Return whether the text of the first messages does not change with the message ``number``."""
        try:
            return number > 0 and self.render(messages[:number]) == self.render(messages[: number + 1])
        except DataError:  # a template may require, say, a question after a system prompt
            return False


def template_of(tokenizer: Any) -> str | None:
    """Return the chat template of a tokenizer; None if it has none."""
    if not getattr(tokenizer, "chat_template", None):
        return None
    try:
        template: str = tokenizer.get_chat_template()
    except ValueError as error:
        raise DataError(f"the tokenizer's chat template cannot be used: {error}") from error
    return template


def prints_date(tokenizer: Any) -> bool:
    """Return whether the chat template of a tokenizer prints the date."""
    return CLOCK in (template_of(tokenizer) or "")


def time_of(date: str | None) -> datetime:
    """Return a date, and time, in ISO 8601; None is the current time.

    Raises:
        DataError: it is not a date.
    """
    if date is None:
        now: datetime = library("transformers.utils.chat_template_utils").datetime.now()
        return now
    try:
        return datetime.fromisoformat(date)
    except ValueError:
        raise DataError(f"data.date is {date!r}, expected a date such as '2025-01-31' or '2025-01-31T09:30'") from None


@contextmanager
def _fixed(now: datetime) -> Iterator[None]:
    """Fix the time and the random draws of chat templates."""
    utils = library("transformers.utils.chat_template_utils")
    clock, draws = utils.datetime, random.getstate()
    utils.datetime = _clock(now)
    random.seed(0)
    try:
        yield
    finally:
        utils.datetime = clock
        random.setstate(draws)


@cache
def _clock(now: datetime) -> type[datetime]:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return now

    return Clock


def _holds(text: str, content: str) -> bool:
    """Return whether ``text`` contains ``content``, regardless of white space."""
    return "".join(content.split()) in "".join(text.split())
