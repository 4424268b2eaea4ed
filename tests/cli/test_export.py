"""``fedloru export`` on run folders, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors.torch
import torch

from tests.cli.conftest import QUICK, Cli


def test_a_model_is_taken_home_after_any_round_that_is_kept(cli: Cli) -> None:
    cli("run", "small", *QUICK, "--out", "run", "--quiet")
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    shown = cli("export", "run", "--format", "merged", "--out", "home").stdout
    assert "Round 6, 3 merges." in shown and "differ from those of the training model by" in shown
    assert shown.endswith("Written: home\n")
    assert sorted(path.name for path in Path("home").iterdir()) == ["README.md", "fedloru.json", "model.safetensors"]
    taken, final = (safetensors.torch.load_file(f"{name}/model.safetensors") for name in ("home", "run"))
    assert all(torch.equal(taken[key], final[key]) for key in final)
    cli("export", "run", "--format", "merged", "--round", "4", "--out", "earlier")
    told = json.loads(Path("earlier/fedloru.json").read_text())
    assert (told["round"], told["merges"], told["method"]["tau"]) == (4, 2, 2)
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before


def test_what_cannot_be_exported_is_told(cli: Cli) -> None:
    cli("run", "small", *QUICK, "--out", "run", "--quiet")
    for args, told in (
        (("run", "--format", "peft"), "adapters are for models of transformers"),
        (("run", "--format", "onnx"), "there is no format 'onnx'. There are: merged, peft"),
        (("run", "--format", "merged", "--round", "3"), "run keeps no checkpoint of round 3: take one of 0, 4, 6"),
        (("run", "--format", "merged", "--rank", "2"), "only adapters are cut to one"),
        ((".", "--format", "merged"), "is not a run folder"),
    ):
        assert told in cli("export", *args, "--out", "home", code=2).stderr
    assert "run exists already" in cli("export", "run", "--format", "merged", "--out", "run", code=2).stderr
    Path("run/config.toml").write_text(Path("run/config.toml").read_text().replace("tau = 2", "tau = 3"))
    changed = cli("export", "run", "--format", "merged", "--out", "home", code=2).stderr
    assert "method.tau was 2, is 3" in changed
    assert [path.name for path in Path().iterdir()] == ["run"]
