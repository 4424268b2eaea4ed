"""Files in the working directory do not replace installed packages."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
RUN = ROOT / "tests" / "legacy" / "run-9a41fbb"


def test_a_plotly_of_the_working_directory_is_not_run_but_own_modules_are_found(tmp_path: Path) -> None:
    shutil.copytree(RUN, tmp_path / "run")
    for name in ("plotly", "mlxtend", "matplotlib", "torch", "email", "typer", "json"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the working directory was searched first')")
    (tmp_path / "mine.py").write_text("def method():\n    raise ValueError('mine was called')\n")
    env = os.environ | {"PYTHONPATH": str(ROOT)}

    def call(*args: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "fedloru", *args]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)

    done = call("report", "run")
    assert done.returncode == 0, done.stderr
    done = call("run", "small", "-s", "method.name=python:mine:method", "-s", "rounds=1")
    assert done.returncode == 2 and "mine" in done.stderr, done.stderr
    assert "searched first" not in done.stderr
