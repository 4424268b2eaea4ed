"""Export of plain PyTorch models as a state dict."""

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
    run = Run(plan(recipe=Recipe(batch_size=7)).replace(net=built(module, rank=2, targets=("0",))))
    for row in run:
        if row["round"] == 5:  # one round after the second merge, so that factors are live
            break
    return run


def test_a_plain_module_loads_the_exported_state_dict(tmp_path: Path) -> None:
    """Including batch norm statistics; no run folder is needed, as it is for adapters."""
    run = trained()
    summary = fl.export(run, tmp_path / "out")
    loaded = module().double()
    loaded.load_state_dict(safetensors.torch.load_file(tmp_path / "out" / "model.safetensors"))
    x = vectors()["x"]
    with torch.no_grad():
        assert torch.equal(loaded.eval()(x), run.model().eval()(x))
    assert summary["model"] == "Sequential" and summary["classes"] == ["a", "b", "c"] and summary["merges"] == 2
    assert summary["check"]["difference"] < 1e-12 and summary["check"]["examples"] == 8
    assert json.loads((tmp_path / "out" / "fedloru.json").read_text()) == summary
    assert "load_state_dict" in (tmp_path / "out" / "README.md").read_text()


def test_a_plain_module_cannot_be_exported_as_an_adapter(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is a Sequential, but adapters are only available for transformers models"):
        fl.export(trained(), tmp_path / "out", format="peft")
    assert not any(tmp_path.iterdir())


def test_a_wrong_weight_is_an_error_and_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = formats.write_atomic

    def broken(path: Path, data: bytes) -> None:
        tensors = safetensors.torch.load(data)
        tensors["0.weight"][0, 0] += 1
        write(path, safetensors.torch.save(tensors))

    monkeypatch.setattr(formats, "write_atomic", broken)
    with pytest.raises(ModelError, match="does not score 8 examples like the trained model"):
        fl.export(trained(), tmp_path / "out")
    assert not any(tmp_path.iterdir())


def test_a_run_started_from_python_is_exported_from_the_run_itself(tmp_path: Path) -> None:
    from fedloru.errors import RunFolderError
    from fedloru.run.description import echo

    run = Run(plan(), RunFolder.create(tmp_path / "run", echo(plan()), {}))
    list(run)
    with pytest.raises(RunFolderError, match=r"started from Python.*export that run with fedloru\.export"):
        fl.export(tmp_path / "run", tmp_path / "out")
    with pytest.raises(ConfigError, match="round is 2, but the run is at round 6: pass its run folder instead"):
        fl.export(run, tmp_path / "out", round=2)
    assert fl.export(run, tmp_path / "out", round=6)["scores"]["round"] == 6


def test_leftovers_of_a_killed_export_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".out.new").mkdir()
    (tmp_path / ".out.new" / "half").touch()
    fl.export(trained(), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    assert not (tmp_path / "out" / "half").exists()
