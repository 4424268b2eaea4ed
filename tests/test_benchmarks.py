"""``benchmarks/engines.py`` and ``benchmarks/gpu.py`` name the targets that were missed, and fail."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return a script as a module."""
    path = Path(__file__).parents[1] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, f"benchmark_{name}", module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """Return the script as a module, with two cases and without the scaling part."""
    module = script("engines", monkeypatch)
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


@pytest.mark.parametrize(("least", "missed"), [(0.0, 0), (1e9, 6)])
def test_the_benchmark_of_a_gpu_runs_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, least: float, missed: int
) -> None:
    gpu = script("gpu", monkeypatch)
    out = tmp_path / "gpu.json"
    monkeypatch.setattr(gpu, "LEAST", dict.fromkeys(gpu.LEAST, least))
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--repeats", "1", "--out", str(out)])
    tiny = gpu.Case("resnet8", width=4, side=8, all=4, clients=2, batch=4, steps=2, rank=2)
    if missed:
        with pytest.raises(SystemExit, match="missed targets:") as failed:
            gpu.main(tiny)
        assert str(failed.value.code).count("times as fast") == missed
    else:
        gpu.main(tiny)
    saved = json.loads(out.read_text())
    assert [row["mode"] for row in saved["modes"]] == ["float32", "tf32", "bf16"]
    assert all(row["seconds"].keys() == {"sequential", "fused", "limit"} for row in saved["modes"])


def test_the_benchmark_of_a_gpu_needs_one(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = script("gpu", monkeypatch)
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    with pytest.raises(SystemExit, match="no CUDA device"):
        gpu.main()
