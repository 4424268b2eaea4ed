"""The quickstart example runs and learns."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_quickstart(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / "quickstart.py"))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 20
    assert float(lines[-1].split()[3]) > 0.85


def test_the_quickstart_is_about_ten_lines_of_use() -> None:
    _, use = (EXAMPLES / "quickstart.py").read_text().split("import fedloru as fl\n")
    assert len([line for line in use.splitlines() if line.strip()]) <= 10
