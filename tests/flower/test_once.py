"""Requests that are answered by a new process."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedloru.flower import once, protocol
from fedloru.flower.client_app import SERVER
from fedloru.flower.envelope import HELLO, Enclosed
from fedloru.flower.protocol import Goodbye, Refusal
from fedloru.flower.site import Source
from fedloru.flower.terms import Terms


def test_a_goodbye_needs_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(once.subprocess, "run", lambda *_, **__: pytest.fail("a process is started"))
    respond = once.in_new_process(tmp_path, Source(tmp_path), Terms())
    answer = respond(HELLO, Enclosed(protocol.text(Goodbye(reason="done", finished=True))))
    assert protocol.answer(answer.text, Refusal, SERVER) == Refusal(reason="done", leave=True, finished=True)
