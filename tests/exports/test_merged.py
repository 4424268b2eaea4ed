"""Models of torch alone, taken home as a state dict."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

import fedloru as fl
from fedloru.errors import ConfigError, ModelError
from fedloru.exports import formats
from fedloru.recipe import Recipe
from fedloru.run.folder import RunFolder
from fedloru.run.loop import Run
from tests.engine.cohort import built, vectors
from tests.run.test_run import plan


def module() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))


def trained() -> Run:
    run = Run(plan(recipe=Recipe(batch_size=7))._replace(net=built(module, rank=2, targets=("0",))))
    for row in run:
        if row["round"] == 5:  # one round after the second merge, so that factors are live
            break
    return run


def test_a_plain_module_loads_what_was_trained(tmp_path: Path) -> None:
    """Statistics included; without a run folder, which only adapters need."""
    run = trained()
    told = fl.export(run, tmp_path / "out")
    again = module().double()
    again.load_state_dict(safetensors.torch.load_file(tmp_path / "out" / "model.safetensors"))
    x = vectors()["x"]
    with torch.no_grad():
        assert torch.equal(again.eval()(x), run.model().eval()(x))
    assert told["model"] == "Sequential" and told["classes"] == ["a", "b", "c"] and told["merges"] == 2
    assert told["check"]["difference"] < 1e-12 and told["check"]["examples"] == 8
    assert json.loads((tmp_path / "out" / "fedloru.json").read_text()) == told
    assert "load_state_dict" in (tmp_path / "out" / "README.md").read_text()


def test_a_plain_module_has_no_adapter(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is a Sequential, and adapters are for models of transformers"):
        fl.export(trained(), tmp_path / "out", format="peft")
    assert not any(tmp_path.iterdir())


def test_a_wrong_weight_is_an_error_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = formats.write_atomic

    def broken(path: Path, data: bytes) -> None:
        tensors = safetensors.torch.load(data)
        tensors["0.weight"][0, 0] += 1
        write(path, safetensors.torch.save(tensors))

    monkeypatch.setattr(formats, "write_atomic", broken)
    with pytest.raises(ModelError, match="scores 8 examples otherwise than the training model"):
        fl.export(trained(), tmp_path / "out")
    assert not any(tmp_path.iterdir())


def test_a_run_made_in_python_is_exported_as_a_run(tmp_path: Path) -> None:
    from fedloru.api import echo
    from fedloru.errors import RunFolderError

    run = Run(plan(), RunFolder.create(tmp_path / "run", echo(plan()), {}))
    list(run)
    with pytest.raises(RunFolderError, match=r"started from Python.*export the run with fedloru\.export"):
        fl.export(tmp_path / "run", tmp_path / "out")
    with pytest.raises(ConfigError, match="round is 2, and the run is after round 6: name its folder"):
        fl.export(run, tmp_path / "out", round=2)
    assert fl.export(run, tmp_path / "out", round=6)["scores"]["round"] == 6


def test_what_a_killed_export_left_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / ".out.new").mkdir()
    (tmp_path / ".out.new" / "half").touch()
    fl.export(trained(), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    assert not (tmp_path / "out" / "half").exists()
