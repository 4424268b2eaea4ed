"""The Grid of the SuperLink returns the answers that are asked for, and no other."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from flwr.app import Error, Message, RecordDict

from fedloru.flower.local import identify_server
from fedloru.flower.superlink_grid import SuperLinkGrid


class State:
    """Flower's state with ``answers`` by request, each handed over once."""

    def __init__(self, answers: dict[str, Message]) -> None:
        self.answers = answers

    def get_message_res(self, message_ids: set[str], run_id: int) -> list[Message]:
        return [self.answers.pop(name) for name in sorted(message_ids) if name in self.answers]

    def delete_messages(self, message_ids: set[str]) -> None:
        assert not message_ids & set(self.answers)


def answer(request: str) -> Message:
    """Return an answer to the request with the id ``request``, which needs no parts."""
    asked = Message(RecordDict(), 7, "train")
    asked.metadata.__dict__["_message_id"] = request
    made = Message(Error(code=0, reason="a test"), reply_to=asked)
    made.metadata.__dict__["_message_id"] = f"answer to {request}"
    return made


def test_an_answer_waits_for_the_call_that_asks_for_it(monkeypatch: Any) -> None:
    identify_server()
    grid = SuperLinkGrid(SimpleNamespace(state=State({name: answer(name) for name in ("hello", "train")})))  # type: ignore[arg-type]
    grid._run_id = 1
    incomplete = True
    monkeypatch.setattr(grid, "_complete", lambda message: None if incomplete else message)
    assert grid.pull_messages(["train"]) == []  # it has begun to arrive
    incomplete = False
    (first,) = grid.pull_messages(["hello"])
    assert first.metadata.reply_to_message_id == "hello"
    (second,) = grid.pull_messages(["train", "hello"])
    assert second.metadata.reply_to_message_id == "train"
    assert grid.pull_messages(["train", "hello"]) == []
