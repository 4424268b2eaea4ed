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
"""A run of 6 rounds with 3 merges and 3 checkpoints, in well under a second."""


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run a command; whatever it refuses is told without a traceback."""
    monkeypatch.chdir(tmp_path)

    def run(*args: str, code: int = 0) -> Result:
        result = CliRunner().invoke(app, [str(arg) for arg in args], env={"COLUMNS": "100", "TERM": "dumb"})
        assert "Traceback" not in result.output
        assert result.exit_code == code, result.output
        return result

    return run


def rows(folder: Path) -> list[dict[str, Any]]:
    """Return the rounds of a run, timings apart."""
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def same(first: Path, second: Path) -> None:
    """Compare two run folders: rounds, final model, last checkpoint, partition."""
    assert rows(first) == rows(second)
    for name in ("model.safetensors", "partition.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    last = [max((folder / "checkpoint").glob("*.safetensors")) for folder in (first, second)]
    assert last[0].name == last[1].name
    assert last[0].read_bytes() == last[1].read_bytes()
