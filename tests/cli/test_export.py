"""``fedloru export`` on run folders, and its errors."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors.torch
import torch

from tests.cli.conftest import QUICK, Cli


def test_any_checkpoint_can_be_exported(cli: Cli) -> None:
    cli("run", "small", *QUICK, "--out", "run", "--quiet")
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    shown = cli("export", "run", "--format", "merged", "--out", "exported").stdout
    assert "Round 6, 3 merges." in shown and "differ from those of the trained model by at most" in shown
    assert shown.endswith("Exported to exported\n")
    assert sorted(path.name for path in Path("exported").iterdir()) == [
        "README.md",
        "fedloru.json",
        "model.safetensors",
    ]
    exported, final = (safetensors.torch.load_file(f"{name}/model.safetensors") for name in ("exported", "run"))
    assert all(torch.equal(exported[key], final[key]) for key in final)
    cli("export", "run", "--format", "merged", "--round", "4", "--out", "earlier")
    summary = json.loads(Path("earlier/fedloru.json").read_text())
    assert (summary["round"], summary["merges"], summary["method"]["tau"]) == (4, 2, 2)
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before


def test_errors_of_an_export(cli: Cli) -> None:
    cli("run", "small", *QUICK, "--out", "run", "--quiet")
    for args, message in (
        (("run", "--format", "peft"), "adapters are only available for transformers models"),
        (("run", "--format", "onnx"), "there is no format 'onnx'. There are: merged, peft"),
        (("run", "--format", "merged", "--round", "3"), "run has no checkpoint of round 3: choose one of 0, 4, 6"),
        (("run", "--format", "merged", "--rank", "2"), "only adapters can be truncated"),
        (("run", "--format", "merged", "--base", "a/b"), "only adapters need a base"),
        ((".", "--format", "merged"), "is not a run folder"),
    ):
        assert message in cli("export", *args, "--out", "exported", code=2).stderr
    assert "run exists already" in cli("export", "run", "--format", "merged", "--out", "run", code=2).stderr
    Path("run/config.toml").write_text(Path("run/config.toml").read_text().replace("tau = 2", "tau = 3"))
    changed = cli("export", "run", "--format", "merged", "--out", "exported", code=2).stderr
    assert "method.tau was 2, is 3" in changed
    assert [path.name for path in Path().iterdir() if path.is_dir()] == ["run"]
