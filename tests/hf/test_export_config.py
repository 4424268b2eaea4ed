"""Export the run of a configuration as an adapter, and start the next run from it."""

from __future__ import annotations

import logging
import tomllib
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import fedloru as fl
from fedloru import api, config
from fedloru.cli import app
from fedloru.errors import ModelError
from fedloru.run import increments
from tests.hf import home
from tests.hf.test_config import configured

pytestmark = pytest.mark.hf


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_a_run_folder_is_exported_and_the_next_run_starts_from_it(family: str, tmp_path: Path) -> None:
    """By the command; the saved configuration keeps increments, and a resumed run has the same ones."""
    list(api.start(configured(family, tmp_path)))
    echo = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    assert echo["output"]["increments"] is True
    for format in ("merged", "peft"):
        args = ["export", str(tmp_path / "run"), "--format", format, "--out", str(tmp_path / format)]
        result = CliRunner().invoke(app, args)
        assert result.exit_code == 0, result.output
        assert "Round 4, 2 merges." in result.stdout and "Checked on" in result.stdout
    sections = {"model": {"adapter": str(tmp_path / "peft")}, "output": {"dir": str(tmp_path / "next")}}
    for row in api.start(configured(family, tmp_path, **sections)):
        if row["round"] == 3:
            break
    kept = {path.name: path.read_bytes() for path in (tmp_path / "next" / "increments").iterdir()}
    assert sorted(kept) == ["v000000.safetensors", "v000001.safetensors"]
    list(api.resume(tmp_path / "next", from_round=2))
    assert increments.versions(tmp_path / "next" / "increments") == [0, 1, 2]
    assert all((tmp_path / "next" / "increments" / name).read_bytes() == data for name, data in kept.items())
    summary = fl.export(tmp_path / "next", tmp_path / "both", format="peft")
    assert set(summary["ranks"].values()) == {4 * 2 * 2}  # two merges in each of two runs, of 2r
    assert summary["merges"] == 2
    assert summary["check"]["difference"] < 1e-5


def test_an_export_without_the_data(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The check uses random tokens, and the classes come from the run folder."""
    list(api.start(configured("bert", tmp_path)))
    (tmp_path / "texts.parquet").unlink()
    with caplog.at_level(logging.WARNING, "fedloru"):
        summary = fl.export(tmp_path / "run", tmp_path / "out", format="peft", round=2)
    assert "so the export is checked on random tokens" in caplog.text
    assert summary["check"]["drawn"] and summary["check"]["difference"] < 1e-5
    assert summary["classes"] == ["eggs", "ham", "spam", "tea"] and summary["round"] == 2
    assert "random tokens" in (tmp_path / "out" / "README.md").read_text()


def test_a_changed_model_is_rejected(tmp_path: Path) -> None:
    list(api.start(configured("llama", tmp_path)))
    import transformers

    with torch.random.fork_rng():
        torch.manual_seed(9)
        made = transformers.LlamaForCausalLM(transformers.LlamaConfig.from_pretrained(tmp_path / "llama"))
    made.save_pretrained(tmp_path / "llama")
    with pytest.raises(fl.FedloruError, match="has changed: the starting model"):
        fl.export(tmp_path / "run", tmp_path / "out")


def test_an_adapter_for_another_base_is_rejected_before_the_run_folder_is_created(tmp_path: Path) -> None:
    run = home.trained(home.plan("llama", home.net("llama", tmp_path / "base"), rounds=1), tmp_path / "first")
    fl.export(run, tmp_path / "adapter", format="peft")
    with pytest.raises(ModelError, match=r"it is for .*base, whose weights have the hash"):
        api.start(configured("llama", tmp_path, model={"adapter": str(tmp_path / "adapter")}))
    assert not (tmp_path / "run").exists()


def test_fedavg_can_start_from_an_adapter(tmp_path: Path) -> None:
    list(api.start(configured("llama", tmp_path)))
    fl.export(tmp_path / "run", tmp_path / "adapter", format="peft")
    sections = {"model": {"adapter": str(tmp_path / "adapter")}, "method": {"name": "fedavg"}}
    net = config.plan(configured("llama", tmp_path, **sections)).net
    assert net.trainable == net.params.keys() and net.imported is not None
    key = "model.layers.0.self_attn.q_proj.weight"
    plain = config.plan(configured("llama", tmp_path, method={"name": "fedavg"})).net
    assert not torch.equal(net.params[key], plain.params[key])
