"""From a configured run to an adapter, and from that to the next run."""

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
def test_a_run_folder_is_taken_home_and_gone_on_from(family: str, tmp_path: Path) -> None:
    """By the command; the echo says that increments are kept, and a resumed run has the same."""
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
    told = fl.export(tmp_path / "next", tmp_path / "both", format="peft")
    assert set(told["ranks"].values()) == {4 * 2} and told["merges"] == 2
    assert told["check"]["difference"] < 1e-5


def test_data_that_is_gone_is_no_hindrance(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The check takes random tokens; the classes are in the folder."""
    list(api.start(configured("bert", tmp_path)))
    (tmp_path / "said.parquet").unlink()
    with caplog.at_level(logging.WARNING, "fedloru"):
        told = fl.export(tmp_path / "run", tmp_path / "out", format="peft", round=2)
    assert "so that the check takes random tokens" in caplog.text
    assert told["check"]["drawn"] and told["check"]["difference"] < 1e-5
    assert told["classes"] == ["eggs", "ham", "spam", "tea"] and told["round"] == 2
    assert "random tokens" in (tmp_path / "out" / "README.md").read_text()


def test_a_model_that_has_changed_since_is_refused(tmp_path: Path) -> None:
    list(api.start(configured("llama", tmp_path)))
    import transformers

    with torch.random.fork_rng():
        torch.manual_seed(9)
        made = transformers.LlamaForCausalLM(transformers.LlamaConfig.from_pretrained(tmp_path / "llama"))
    made.save_pretrained(tmp_path / "llama")
    with pytest.raises(fl.FedloruError, match="has changed: the starting model"):
        fl.export(tmp_path / "run", tmp_path / "out")


def test_an_adapter_for_another_base_is_refused_before_there_is_a_folder(tmp_path: Path) -> None:
    run = home.trained(home.plan("llama", home.net("llama", tmp_path / "base"), rounds=1), tmp_path / "first")
    fl.export(run, tmp_path / "adapter", format="peft")
    with pytest.raises(ModelError, match=r"it is for .*base, whose weights have the hash"):
        api.start(configured("llama", tmp_path, model={"adapter": str(tmp_path / "adapter")}))
    assert not (tmp_path / "run").exists()


def test_fedavg_starts_from_an_adapter_too(tmp_path: Path) -> None:
    list(api.start(configured("llama", tmp_path)))
    fl.export(tmp_path / "run", tmp_path / "adapter", format="peft")
    sections = {"model": {"adapter": str(tmp_path / "adapter")}, "method": {"name": "fedavg"}}
    net = config.plan(configured("llama", tmp_path, **sections)).net
    assert net.trainable == net.params.keys() and net.imported is not None
    key = "model.layers.0.self_attn.q_proj.weight"
    plain = config.plan(configured("llama", tmp_path, method={"name": "fedavg"})).net
    assert not torch.equal(net.params[key], plain.params[key])
