"""Read a column of conversations: lists of messages with a role and a content.

Messages have the keys ``role`` and ``content``, as in OpenAI's format, or ``from`` and ``value``, as in ShareGPT's. A
content is text, or a list of parts that are text. Other keys of a message are passed to the chat template.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fedloru.data.table import Table
from fedloru.errors import DataError

Message = dict[str, Any]

ASSISTANT, USER, SYSTEM = "assistant", "user", "system"
COLUMNS = ("messages", "conversations", "conversation")
"""The columns that are read as conversations by default."""
ROLES = {
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "model", "bot", "bard", "bing", "claude"), ASSISTANT),
    **dict.fromkeys(("user", "human"), USER),
    "system": SYSTEM,
    "developer": "developer",
    **dict.fromkeys(("tool", "function", "function_response", "observation", "ipython"), "tool"),
}
"""The names of roles in data sets, and in chat templates."""
FORMATS = (("role", "content"), ("from", "value"))
TEXT_PARTS = ("text", "input_text", "output_text")


def conversations(table: Table, name: str) -> list[list[Message]]:
    """Return the conversations of the column ``name``, with the roles and contents of the messages as text.

    Raises:
        DataError: there is no such column, or a conversation cannot be read.
    """
    return [_conversation(value, f"{table.place(row)}, {name!r}") for row, value in enumerate(table[name])]


def is_answer(message: Message) -> bool:
    """Return whether a model is trained on ``message``: it is the assistant's, and its ``weight`` is not 0."""
    return bool(message["role"] == ASSISTANT and message.get("weight", 1) != 0)


def has_answer(messages: Sequence[Message]) -> bool:
    """Return whether the assistant says something that a model is trained on."""
    return any(is_answer(each) and (each["content"].strip() or each.get("tool_calls")) for each in messages)


def without_system(messages: Sequence[Message]) -> list[Message] | None:
    """Return ``messages`` with the system prompt in front of the first user's message; None if there is none."""
    if len(messages) < 2 or messages[0]["role"] not in (SYSTEM, "developer") or messages[1]["role"] != USER:
        return None
    system, user = messages[0]["content"], messages[1]
    return [user | {"content": f"{system}\n\n{user['content']}"}, *messages[2:]]


def _conversation(value: Any, where: str) -> list[Message]:
    if isinstance(value, str):  # as in CSV files
        try:
            value = json.loads(value)
        except ValueError:
            raise DataError(f"{where} is text, expected a list of messages: name another column") from None
    if value is None:
        return []
    if not isinstance(value, list):
        raise DataError(f"{where} is of type {type(value).__name__}, expected a list of messages: fix or drop this row")
    return [_message(each, f"{where}, message {number}") for number, each in enumerate(value)]


def _message(value: Any, where: str) -> Message:
    given = _without_none(value) if isinstance(value, Mapping) else {}
    for role, content in FORMATS:
        if role in given:
            others = {key: each for key, each in given.items() if key not in (role, content)}
            return {
                "role": _role(given[role], where),
                "content": _text(given.get(content, ""), where),
                **_weighted(others, where),
            }
    got = f"the keys {', '.join(map(str, given))}" if given else f"a {type(value).__name__}"
    raise DataError(f"{where}: expected 'role' and 'content', or 'from' and 'value', got {got}: fix or drop this row")


def _weighted(others: Message, where: str) -> Message:
    if others.get("weight", 1) not in (0, 1):
        raise DataError(f"{where} has the weight {others['weight']!r}, expected 0 or 1: change or remove it")
    return others


def _role(name: Any, where: str) -> str:
    known = ROLES.get(str(name).strip().casefold())
    if known is None:
        raise DataError(f"{where} has the role {str(name)[:40]!r}, expected one of {', '.join(ROLES)}: rename it")
    return known


def _text(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    texts = [_part(part) for part in parts]
    if None in texts:
        part = parts[texts.index(None)]
        kind = part.get("type", "unknown") if isinstance(part, Mapping) else type(part).__name__
        raise DataError(f"{where} has a content of type {str(kind)[:40]!r}, but only text is supported: drop this row")
    return "".join(text for text in texts if text is not None)


def _part(part: Any) -> str | None:
    if isinstance(part, Mapping) and part.get("type", "text") in TEXT_PARTS:
        part = part.get("text")
    return part if isinstance(part, str) else None


def _without_none(value: Any) -> Any:
    """Return ``value`` without keys of None, with which a table fills keys that only other rows have."""
    if isinstance(value, Mapping):
        return {key: _without_none(each) for key, each in value.items() if each is not None}
    return [_without_none(each) for each in value] if isinstance(value, list) else value
