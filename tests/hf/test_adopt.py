"""Runs that start from an adapter, which is merged before the first round and exported with all later updates."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import fedloru as fl
from fedloru import lowrank
from fedloru.run import increments
from tests.hf import home
from tests.hf.tiny import FAMILIES

pytestmark = pytest.mark.hf


def exported(family: str, tmp_path: Path) -> Path:
    """Return the adapter of a run with three merges."""
    run = home.trained(home.plan(family, home.net(family, tmp_path / "base")), tmp_path / "first")
    fl.export(run, tmp_path / "adapter", format="peft")
    return tmp_path / "adapter"


def adopted(family: str, tmp_path: Path, **settings: Any) -> fl.Net:
    """Return a net that starts from the exported adapter; ``settings`` set the targets and rank of its factors."""
    return fl.hf.adopt(home.net(family, tmp_path / "base", **settings), tmp_path / "adapter")


@pytest.mark.parametrize("family", FAMILIES)
def test_importing_and_exporting_an_adapter_gives_the_same_files(family: str, tmp_path: Path) -> None:
    """Bit for bit, including the head, since the scale is 1."""
    folder = exported(family, tmp_path)
    net = adopted(family, tmp_path, rank=3)
    run = fl.Run(home.plan(family, net))
    fl.export(run, tmp_path / "again", format="peft")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
    got = home.logits(run.model(), family)
    expected = home.logits(home.with_peft(family, tmp_path / "base", folder), family)
    assert float((got - expected).abs().max()) < 1e-5


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_later_updates_are_added_to_the_adapter(family: str, tmp_path: Path) -> None:
    """Also at other layers; the run folder has the imported adapter as version 0."""
    exported(family, tmp_path)
    targets = ["*.up_proj", "*.v_proj"] if family == "llama" else ["*.intermediate.dense", "*.value"]
    net = adopted(family, tmp_path, targets=targets)
    run = home.trained(home.plan(family, net), tmp_path / "run")
    assert increments.versions(tmp_path / "run" / "increments") == [0, 1, 2, 3]
    summary = fl.export(run, tmp_path / "out", format="peft")
    assert sorted(summary["ranks"].values()) == [8] * 4 + [16] * 2
    got = home.logits(home.with_peft(family, tmp_path / "base", tmp_path / "out"), family)
    assert float((got - home.logits(run.model(), family)).abs().max()) < 1e-5
    if family == "bert":
        assert "classifier.weight" in net.trainable


def test_an_adapter_is_merged_in_float64_and_rounded_once(tmp_path: Path) -> None:
    exported("llama", tmp_path)
    tensors = safetensors.torch.load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    start = dict(home.loaded("llama", tmp_path / "base").named_parameters())
    net = adopted("llama", tmp_path)
    layer = "model.layers.1.self_attn.q_proj"
    a, b = (tensors[f"base_model.model.{layer}.lora_{letter}.weight"] for letter in "AB")
    expected = start[f"{layer}.weight"].detach() + (b.double() @ a.double()).float()
    assert torch.equal(net.params[f"{layer}.weight"], expected)
    assert torch.equal(net.params["lm_head.weight"], start["lm_head.weight"])


@pytest.mark.parametrize("stabilised", [False, True])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_adapter_created_by_peft(family: str, stabilised: bool, tmp_path: Path) -> None:
    """With rank and alpha patterns, an embedding, and scales by the rank or its square root."""
    made = foreign(family, tmp_path, use_rslora=stabilised)
    net = adopted(family, tmp_path)
    got = home.logits(fl.Run(home.plan(family, net)).model(), family)
    assert float((got - home.logits(made, family)).abs().max()) < 1e-5
    assert float((got - home.logits(home.loaded(family, tmp_path / "base"), family)).abs().max()) > 0.01


def foreign(family: str, tmp_path: Path, **settings: Any) -> Any:
    """Save an adapter with random factors by PEFT alone, and return its model."""
    import warnings

    import peft

    names = ["c_attn", "wpe"] if family == "gpt2" else ["q_proj", "embed_tokens"]
    usual = {"r": 4, "lora_alpha": 6, "target_modules": names, "rank_pattern": {rf".*\.1\..*{names[0]}": 2}}
    usual |= {"alpha_pattern": {names[0]: 5}, "fan_in_fan_out": family == "gpt2"}
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        torch.manual_seed(3)
        base = home.auto(family).from_pretrained(home.base(family, tmp_path / "base"))
        model = peft.get_peft_model(base, peft.LoraConfig(**(usual | settings)))
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    return model


def test_another_dtype_of_the_base_gives_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    exported("llama", tmp_path)
    with caplog.at_level(logging.WARNING, "fedloru"):
        adopted("llama", tmp_path, dtype=torch.bfloat16)
    assert "in float32, not bfloat16: the base cannot be verified" in caplog.text


def test_the_imported_factors_are_kept_unchanged(tmp_path: Path) -> None:
    foreign("llama", tmp_path)
    net = adopted("llama", tmp_path)
    assert net.imported is not None
    scales = {site.weight: (site.rank, site.scale) for site in net.imported.sites}
    assert scales["model.layers.0.self_attn.q_proj.weight"] == (4, 5 / 4)
    assert scales["model.layers.1.self_attn.q_proj.weight"] == (2, 5 / 2)
    assert scales["model.embed_tokens.weight"] == (4, 6 / 4)
    whole = lowrank.combine([net.imported])
    assert {site.scale for site in whole.sites} == {1.0}


def test_the_head_of_an_adapter_replaces_that_of_the_model_and_is_trained_further(tmp_path: Path) -> None:
    """Here the head of the base is for the same classes, so it would have stayed frozen."""
    first = home.trained(home.plan("bert", home.net("bert", tmp_path / "base"), rounds=1), tmp_path / "first")
    fl.export(first, tmp_path / "whole")

    def net() -> fl.Net:
        return fl.hf.attach(fl.hf.load(str(tmp_path / "whole"), task="classify", classes=home.CLASSES), rank=2)

    fl.export(home.trained(home.plan("bert", net()), tmp_path / "run"), tmp_path / "adapter", format="peft")
    same = fl.hf.adopt(net(), tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = safetensors.torch.load_file(path)
    tensors["base_model.model.classifier.weight"] += 1
    safetensors.torch.save_file(tensors, path)
    other = fl.hf.adopt(net(), tmp_path / "adapter")
    assert same.trainable == same.factors and other.trainable - other.factors == {"classifier.weight"}
    assert torch.equal(other.params["classifier.weight"], tensors["base_model.model.classifier.weight"])
