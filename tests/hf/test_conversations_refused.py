"""Conversations and chat templates that are refused, with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedloru.errors import DataError
from tests.hf.chats import ANSWER, ASK, CHATML, CONVERSATIONS, MORE, Turns, loaded, says

pytestmark = pytest.mark.hf

BAD: dict[str, tuple[Any, str]] = {
    "no role": (
        [{"speaker": "a", "text": "b"}],
        r"row 0, 'messages', message 0: expected 'role' and 'content'",
    ),
    "an unknown role": (says([("critic", "bad"), ANSWER]), "the role 'critic', expected one of assistant"),
    "an image": ([{"role": "user", "content": [{"type": "image", "text": None}]}], "a content of type 'image'"),
    "a number": ([{"role": "user", "content": 3}], "a content of type 'int'"),
    "a weight": ([{"role": "assistant", "content": "a", "weight": 2}], "the weight 2, expected 0 or 1"),
    "text": ("hello", "is text, expected a list of messages"),
    "texts": (["hello"], "got a str"),
}


@pytest.mark.parametrize("name", BAD)
def test_invalid_conversations_are_rejected(name: str, tmp_path: Path) -> None:
    row, message = BAD[name]
    with pytest.raises(DataError, match=message):
        loaded(tmp_path, [row])


@pytest.mark.parametrize(
    ("template", "turns", "message"),
    [
        (
            CHATML.replace("{{ m.content }}", "{{ m.content[:3] }}"),
            [ASK, ("assistant", "a long one")],
            "leaves out a part",
        ),
        (
            CHATML.replace("in messages %}", "in messages if m.role != 'tool' %}"),
            CONVERSATIONS["a tool"],
            "role 'tool'",
        ),
        (CHATML + "{{ messages | length }}", [ASK, ANSWER, MORE, ANSWER], "renders a prompt differently"),
        ("{{ messages | length }}" + CHATML, [ASK, ANSWER, MORE, ANSWER], "renders a prompt differently"),
    ],
)
def test_a_template_that_loses_or_moves_messages_is_rejected(
    template: str, turns: Turns, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        loaded(tmp_path, [says(turns)], template)
