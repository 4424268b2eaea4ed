"""Tokenized texts are cached: the same texts are tokenized once, and an entry is checked before it is used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fedloru import cache
from fedloru.cache import Entry
from fedloru.data.table import Table
from fedloru.hf import remembered
from fedloru.hf.encode import Classify, Instruct, Plain
from fedloru.hf.remembered import encoded
from tests.hf.letters import CHAT, letters

pytestmark = pytest.mark.hf

PAIRS = {"prompt": ["why?", "how?", "x" * 90], "response": ["so", "like this", "never"], "context": ["", "a", ""]}
TEXTS = {"text": ["one text", "!", "two " * 30], "label": ["a", "b", "a"]}
KINDS = [(Instruct(), PAIRS), (Instruct(template="Q:{prompt}"), PAIRS), (Plain(), TEXTS), (Classify(), TEXTS)]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path))
    return tmp_path


def entries(place: Path) -> int:
    return len(list(place.iterdir()))


@pytest.mark.parametrize(("kind", "columns"), KINDS)
def test_the_same_texts_are_tokenized_once(
    kind: Any, columns: dict[str, list[Any]], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = letters()
    first = encoded(kind, tokenizer, Table(columns, "here"), "here", 60)
    assert first == kind.encode(tokenizer, Table(columns, "here"), "here", 60) and entries(place) == 1
    monkeypatch.setattr(type(kind), "encode", lambda *_: pytest.fail("tokenized again"))
    assert encoded(kind, letters(), Table(columns, "there"), "there", 60) == first


def test_everything_that_tokens_follow_from_is_compared(place: Path) -> None:
    changes: list[Callable[[], Any]] = [
        lambda: encoded(Plain(), letters(), Table(TEXTS, "t"), "t", 60),
        lambda: encoded(Plain(), letters(), Table(TEXTS, "t"), "t", 50),
        lambda: encoded(Plain(), letters(closed=True), Table(TEXTS, "t"), "t", 60),
        lambda: encoded(Plain(), letters(eos_token="~"), Table(TEXTS, "t"), "t", 60),
        lambda: encoded(Plain(), letters(), Table({"text": ["one text", " ", "two " * 30]}, "t"), "t", 60),
        lambda: encoded(Plain("label"), letters(), Table(TEXTS, "t"), "t", 60),
        lambda: encoded(Classify(), letters(), Table(TEXTS, "t"), "t", 60),
        lambda: encoded(Instruct(), letters(), Table(PAIRS, "t"), "t", 60),
        lambda: encoded(Instruct(template="chat"), letters(chat_template=CHAT), Table(PAIRS, "t"), "t", 60),
    ]
    for number, change in enumerate(changes, 1):
        change()
        assert entries(place) == number


def test_what_cannot_be_told_from_the_tokenizer_is_not_cached(place: Path) -> None:
    class Own(type(letters())):  # type: ignore[misc]
        pass

    own = letters()
    own.__class__ = Own
    encoded(Plain(), own, Table(TEXTS, "t"), "t", 60)
    dated = letters(chat_template="{{ strftime_now('%Y') }}" + CHAT)
    encoded(Instruct(template="chat", date="2025-01-31"), dated, Table(PAIRS, "t"), "t", 60)
    assert entries(place) == 0


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("ids", lambda x: x + 1000),
        ("ids", lambda x: -x - 1),
        ("ids", lambda x: x[:-1]),
        ("ids", lambda x: x.float()),
        ("labels", lambda x: x * 0 - 7),
        ("row", lambda x: x + 3),
        ("row", lambda x: x[1:]),
        ("length", lambda x: x * 0),
        ("length", lambda x: torch.cat([x[:1] + 1, x[1:] - 1])),
        ("labeled", lambda x: x - 1),
        ("labels", lambda x: x[None]),
    ],
)
def test_tampered_tokens_are_refused(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    made = Instruct(template="Q:{prompt}").encode(letters(), Table(PAIRS, "t"), "t", 60)
    tensors, facts = remembered._pack(made)
    limits = {"rows": 3, "vocabulary": len(letters()), "longest": 60}
    assert remembered._unpack(Entry(tensors, facts), **limits) == made
    with pytest.raises(ValueError, match="these are not"):
        remembered._unpack(Entry({**tensors, name: change(tensors[name])}, facts), **limits)
    with pytest.raises(ValueError, match="not counts"):
        remembered._unpack(Entry(tensors, {**facts, "tokens": "many"}), **limits)
