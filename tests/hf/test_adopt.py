"""A run that starts from an adapter: merged before the first round, exported with all that came after."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import fedloru as fl
from fedloru import lowrank
from fedloru.engine import increments
from fedloru.errors import ModelError
from tests.hf import home
from tests.hf.tiny import FAMILIES

pytestmark = pytest.mark.hf


def exported(family: str, tmp_path: Path) -> Path:
    """Return the adapter of a run with three merges."""
    run = home.trained(home.plan(family, home.net(family, tmp_path / "base")), tmp_path / "first")
    fl.export(run, tmp_path / "adapter", format="peft")
    return tmp_path / "adapter"


def adopted(family: str, tmp_path: Path, **settings: Any) -> fl.Net:
    """Return a net that starts from it, with factors elsewhere or of another rank."""
    return fl.hf.adopt(home.net(family, tmp_path / "base", **settings), tmp_path / "adapter")


@pytest.mark.parametrize("family", FAMILIES)
def test_in_and_out_again_is_the_same_file(family: str, tmp_path: Path) -> None:
    """Bit for bit, head included: the scale is 1, and nothing is left out."""
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
def test_what_comes_after_joins_it(family: str, tmp_path: Path) -> None:
    """At other layers too; the run folder has it as version 0, and so has every client."""
    exported(family, tmp_path)
    targets = ["*.up_proj", "*.v_proj"] if family == "llama" else ["*.intermediate.dense", "*.value"]
    net = adopted(family, tmp_path, targets=targets)
    run = home.trained(home.plan(family, net), tmp_path / "run")
    assert increments.versions(tmp_path / "run" / "increments") == [0, 1, 2, 3]
    told = fl.export(run, tmp_path / "out", format="peft")
    assert sorted(told["ranks"].values()) == [8] * 4 + [16] * 2
    got = home.logits(home.with_peft(family, tmp_path / "base", tmp_path / "out"), family)
    assert float((got - home.logits(run.model(), family)).abs().max()) < 1e-5
    if family == "bert":
        assert "classifier.weight" in net.trainable


def test_it_is_merged_in_float64_and_rounded_once(tmp_path: Path) -> None:
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
def test_an_adapter_that_peft_made(family: str, stabilised: bool, tmp_path: Path) -> None:
    """With ranks and alphas of single layers, an embedding, and scales by rank or by its root."""
    made = foreign(family, tmp_path, use_rslora=stabilised)
    net = adopted(family, tmp_path)
    got = home.logits(fl.Run(home.plan(family, net)).model(), family)
    assert float((got - home.logits(made, family)).abs().max()) < 1e-5
    assert float((got - home.logits(home.loaded(family, tmp_path / "base"), family)).abs().max()) > 0.01


def foreign(family: str, tmp_path: Path, **settings: Any) -> Any:
    """Save an adapter by the library alone, with all factors drawn, and return its model."""
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


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "DoRA": ({"use_dora": True}, "it has use_dora, DoRA, whose update is no product of two factors"),
    "bias": ({"bias": "lora_only"}, "trained biases"),
    "biases of factors": ({"lora_bias": True}, "biases of factors"),
    "another type": ({"peft_type": "IA3"}, "it is of the type IA3, and only LORA can be merged"),
    "a start that changes the base": ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa', which changes"),
    "rows of an embedding": ({"trainable_token_indices": [1, 2]}, "rows of an embedding"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_plain_lora_is_refused(name: str, tmp_path: Path) -> None:
    foreign("llama", tmp_path)
    changes, told = REFUSED[name]
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ModelError, match=told):
        adopted("llama", tmp_path)


def grown(tensors: dict[str, torch.Tensor]) -> None:
    key = next(key for key in tensors if key.endswith("1.self_attn.q_proj.lora_B.weight"))
    tensors[key] = torch.cat([tensors[key], tensors[key]])


def halved(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"]


def elsewhere(tensors: dict[str, torch.Tensor]) -> None:
    for letter in "AB":
        key = f"base_model.model.model.layers.{{}}.self_attn.q_proj.lora_{letter}.weight"
        tensors[key.format(7)] = tensors.pop(key.format(0))


def copied(tensors: dict[str, torch.Tensor]) -> None:
    tensors["base_model.model.model.norm.weight"] = torch.zeros(16)


def dora(tensors: dict[str, torch.Tensor]) -> None:
    tensors["base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector"] = torch.zeros(16)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (grown, r"layers\.1\.self_attn\.q_proj is 16 × 16 in the model, and its factors are 32 × 2 and 2 × 16"),
        (halved, "it has only lora_B of model.layers.0.self_attn.q_proj"),
        (elsewhere, "the model has no layer model.layers.7.self_attn.q_proj"),
        (copied, "whole copy of model.norm.weight, and only heads of classifiers are taken whole"),
        (dora, "the model has no model.layers.0.self_attn.q_proj.lora_magnitude_vector"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_the_model_has_no_place_for_is_refused(
    change: Callable[[dict[str, torch.Tensor]], None], told: str, tmp_path: Path
) -> None:
    foreign("llama", tmp_path)
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = safetensors.torch.load_file(path)
    change(tensors)
    safetensors.torch.save_file(tensors, path)
    with pytest.raises(ModelError, match=told):
        adopted("llama", tmp_path)


def test_another_base_of_the_same_shapes_is_refused_by_its_hash(tmp_path: Path) -> None:
    exported("llama", tmp_path)
    home.base("llama", tmp_path / "other", seed=2)
    with pytest.raises(
        ModelError, match=r"it is for .*base, whose weights have the hash [0-9a-f]{32}; those of the mod"
    ):
        fl.hf.adopt(home.net("llama", tmp_path / "other"), tmp_path / "adapter")


def test_another_type_of_weights_is_taken_with_a_note(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    exported("llama", tmp_path)
    with caplog.at_level(logging.WARNING, "fedloru"):
        adopted("llama", tmp_path, dtype=torch.bfloat16)
    assert "in float32, here in bfloat16: the bits of weights are not compared" in caplog.text


def test_other_classes_are_refused(tmp_path: Path) -> None:
    exported("bert", tmp_path)
    other = fl.hf.load(str(tmp_path / "base"), task="classify", classes=["spam", "ham", "eggs"])
    with pytest.raises(ModelError, match="its classes are ham, spam, eggs, and those of the data are spam, ham, eggs"):
        fl.hf.adopt(fl.hf.attach(other, rank=2), tmp_path / "adapter")
    fewer = fl.hf.load(str(tmp_path / "base"), task="classify", classes=["spam", "ham"])
    with pytest.raises(ModelError, match=r"classifier\.weight is 2 × 16 in the model and 3 × 16 in the adapter"):
        fl.hf.adopt(fl.hf.attach(fewer, rank=2), tmp_path / "adapter")


def test_an_adapter_of_a_tied_weight_is_refused(tmp_path: Path) -> None:
    folder = exported("gpt2", tmp_path)
    path = folder / "adapter_model.safetensors"
    tensors = safetensors.torch.load_file(path)
    tensors["base_model.model.lm_head.lora_A.weight"] = torch.zeros(1, 16)
    tensors["base_model.model.lm_head.lora_B.weight"] = torch.zeros(60, 1)
    safetensors.torch.save_file(tensors, path)
    with pytest.raises(ModelError, match=r"lm_head\.weight is tied, and a change of it would change every owner"):
        adopted("gpt2", tmp_path)


def test_folders_without_an_adapter_are_refused(tmp_path: Path) -> None:
    net = home.net("llama", tmp_path / "base")
    with pytest.raises(ModelError, match=r"has no adapter_config\.json, so it holds no adapter"):
        fl.hf.adopt(net, tmp_path)
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"has no adapter_model\.safetensors: have whoever made it save it anew"):
        fl.hf.adopt(net, tmp_path)
    (tmp_path / "adapter_model.bin").write_bytes(b"not read")
    with pytest.raises(ModelError, match=r"adapter_model\.bin, a pickle, which can run any code"):
        fl.hf.adopt(net, tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"not read")
    with pytest.raises(ModelError, match="cannot be read: JSONDecodeError"):
        fl.hf.adopt(net, tmp_path)


def test_a_second_adapter_is_refused(tmp_path: Path) -> None:
    exported("llama", tmp_path)
    with pytest.raises(ModelError, match="has an adapter merged already"):
        fl.hf.adopt(adopted("llama", tmp_path), tmp_path / "adapter")


def test_the_factors_are_kept_as_they_came(tmp_path: Path) -> None:
    foreign("llama", tmp_path)
    net = adopted("llama", tmp_path)
    assert net.imported is not None
    scales = {site.weight: (site.rank, site.scale) for site in net.imported.sites}
    assert scales["model.layers.0.self_attn.q_proj.weight"] == (4, 5 / 4)
    assert scales["model.layers.1.self_attn.q_proj.weight"] == (2, 5 / 2)
    assert scales["model.embed_tokens.weight"] == (4, 6 / 4)
    whole = lowrank.together([net.imported])
    assert {site.scale for site in whole.sites} == {1.0}


def test_a_head_that_comes_along_takes_the_place_of_the_models_own_and_is_trained_on(tmp_path: Path) -> None:
    """Here of a base whose head is for the same classes, so that it would have stayed frozen."""
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
