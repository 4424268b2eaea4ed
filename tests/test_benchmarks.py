"""``benchmarks/engines.py`` names the targets that were missed, and fails."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """Return the script as a module, with two cases and without the scaling part."""
    path = Path(__file__).parents[1] / "benchmarks" / "engines.py"
    spec = importlib.util.spec_from_file_location("benchmark_engines", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "benchmark_engines", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "CASES", module.CASES[:2])
    monkeypatch.setattr(module, "every_method", list)
    monkeypatch.setattr(module, "scale", list)
    monkeypatch.setattr(sys, "argv", ["engines.py", "--repeats", "2", "--out", str(tmp_path / "engines.json")])
    return module


def measured(case: Any, fused: float) -> dict[str, Any]:
    """Return a row of the table in which the fused engine is ``fused`` times as fast as the sequential one."""
    ratio = {"sequential": 1.0, "fused": fused, "auto": fused}
    row = {
        "case": case.name,
        "method": "fedloru",
        "clients": 1,
        "batch": 1,
        "rank": 1,
        "seconds": ratio,
        "auto": "x: y",
    }
    return row | {"ratio": ratio, "engine": case.engine, "least": case.least, "reached": fused >= case.least}


def test_a_missed_target_is_reported_and_fails(engines: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, int]] = []

    def measure(case: Any, repeats: int) -> dict[str, Any]:
        calls.append((case.name, repeats))
        return measured(case, 4.5)

    monkeypatch.setattr(engines, "measure", measure)
    with pytest.raises(SystemExit) as failed:
        engines.main()
    assert failed.value.code == "missed targets:\nmlp 784-200-10: fused reached 4.50×, 0.50 below the target of 5.0×"
    assert calls == [("mlp 784-200-10", 2), ("mlp 784-200-10", 6), ("mlp, FedAvg", 2)]


def test_the_benchmark_passes_if_all_targets_are_reached(
    engines: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(engines, "measure", lambda case, repeats: measured(case, case.least))
    engines.main()
    assert [row["reached"] for row in json.loads((tmp_path / "engines.json").read_text())["cases"]] == [True, True]
