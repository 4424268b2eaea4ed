"""The command line in this process, in an empty working directory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from fedloru.cli import app

Cli = Callable[..., Result]

QUICK = ("-s", "rounds=6", "-s", "method.tau=2", "-s", "output.checkpoint_every=2")
"""A run of 6 rounds with 3 merges and 3 checkpoints; it takes less than a second."""


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Return a function that runs a command, and checks its exit code and that no traceback is printed."""
    monkeypatch.chdir(tmp_path)

    def run(*args: str, code: int = 0) -> Result:
        result = CliRunner().invoke(app, [str(arg) for arg in args], env={"COLUMNS": "100", "TERM": "dumb"})
        assert "Traceback" not in result.output
        assert result.exit_code == code, result.output
        return result

    return run


def rows(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a run, without timings."""
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def same(first: Path, second: Path) -> None:
    """Assert that two run folders have the same rows, final model, last checkpoint and partition."""
    assert rows(first) == rows(second)
    for name in ("model.safetensors", "partition.json", "partition.safetensors"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    last = [max((folder / "checkpoint").glob("*.safetensors")) for folder in (first, second)]
    assert last[0].name == last[1].name
    assert last[0].read_bytes() == last[1].read_bytes()
