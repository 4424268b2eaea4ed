"""Warnings on the terminal: once each, but events of a federation as often as they happen."""

import io
import logging
import sys

import pytest
from rich.console import Console

from fedloru.cli.app import _NoteHandler, say
from fedloru.report import Live


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [5.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def emit(handler: _NoteHandler, logger: str, message: str) -> None:
    handler.handle(logging.LogRecord(logger, logging.WARNING, "", 0, message, (), None))


@pytest.mark.parametrize(("logger", "times"), [("fedloru.hf.text", 1), ("fedloru.flower.guests", 2)])
def test_events_are_printed_again(
    logger: str, times: int, clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    handler = _NoteHandler()
    for seconds in (0, 1, 29, 31):
        clock[0] = 5.0 + seconds
        emit(handler, logger, "waiting")
    assert capsys.readouterr().err == "Note: waiting\n" * times


def test_the_memory_of_messages_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[_NoteHandler.__module__], "REMEMBERED", 3)
    handler = _NoteHandler()
    for number in range(9):
        emit(handler, "fedloru.flower.round", f"round {number}")
    assert list(handler.printed) == ["round 6", "round 7", "round 8"]


def test_notes_are_printed_above_the_live_display(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=60, _environ={"TERM": "xterm"})
    with Live("demo", 3, console=console):
        say("Note: berlin has left")
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "Note: berlin has left" in shown and "berlin" not in capsys.readouterr().err
