"""Adapters that a run cannot start from: other types than plain LoRA, of another base, or pickled."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import fedloru as fl
from fedloru.errors import ModelError
from tests.hf import home
from tests.hf.test_adopt import adopted, exported, foreign

pytestmark = pytest.mark.hf

UNSUPPORTED: dict[str, tuple[dict[str, Any], str]] = {
    "DoRA": ({"use_dora": True}, r"it uses use_dora \(DoRA, whose update is not a product of two factors\)"),
    "bias": ({"bias": "lora_only"}, "trained biases"),
    "biases in the factors": ({"lora_bias": True}, "biases in the factors"),
    "another type": ({"peft_type": "IA3"}, "its type is 'IA3', but only LORA is supported"),
    "an initialization that changes the base": (
        {"init_lora_weights": "pissa"},
        "init_lora_weights is 'pissa', which changes",
    ),
    "an alpha that is not a number": ({"alpha_pattern": {"q_proj": "8"}}, "its alpha is '8', expected a number"),
    "rows of an embedding": ({"trainable_token_indices": [1, 2]}, "trained rows of an embedding"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_variants_of_lora_are_rejected(name: str, tmp_path: Path) -> None:
    foreign("llama", tmp_path)
    changes, message = UNSUPPORTED[name]
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ModelError, match=message):
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
    ("change", "message"),
    [
        (grown, r"layers\.1\.self_attn\.q_proj is 16 × 16 in the model, but its factors are 32 × 2 and 2 × 16"),
        (halved, "it has only lora_B for model.layers.0.self_attn.q_proj"),
        (elsewhere, "the model has no layer model.layers.7.self_attn.q_proj"),
        (
            copied,
            "dense copy of model.norm.weight, which differs from the model's and is not one of its modules_to_save",
        ),
        (dora, "the model has no model.layers.0.self_attn.q_proj.lora_magnitude_vector"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_tensors_that_do_not_fit_the_model_are_rejected(
    change: Callable[[dict[str, torch.Tensor]], None], message: str, tmp_path: Path
) -> None:
    foreign("llama", tmp_path)
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = safetensors.torch.load_file(path)
    change(tensors)
    safetensors.torch.save_file(tensors, path)
    with pytest.raises(ModelError, match=message):
        adopted("llama", tmp_path)


def test_another_base_of_the_same_shapes_is_rejected_by_its_hash(tmp_path: Path) -> None:
    exported("llama", tmp_path)
    home.base("llama", tmp_path / "other", seed=2)
    with pytest.raises(
        ModelError, match=r"it is for .*base, whose weights have the hash [0-9a-f]{32}; the weights of this model"
    ):
        fl.hf.adopt(home.net("llama", tmp_path / "other"), tmp_path / "adapter")


def test_other_classes_are_rejected(tmp_path: Path) -> None:
    exported("bert", tmp_path)
    other = fl.hf.load(str(tmp_path / "base"), task="classify", classes=["spam", "ham", "eggs"])
    with pytest.raises(ModelError, match="its classes are ham, spam, eggs, but those of the data are spam, ham, eggs"):
        fl.hf.adopt(fl.hf.attach(other, rank=2), tmp_path / "adapter")
    fewer = fl.hf.load(str(tmp_path / "base"), task="classify", classes=["spam", "ham"])
    with pytest.raises(ModelError, match=r"classifier\.weight is 2 × 16 in the model but 3 × 16 in the adapter"):
        fl.hf.adopt(fl.hf.attach(fewer, rank=2), tmp_path / "adapter")


def test_an_adapter_of_a_tied_weight_is_rejected(tmp_path: Path) -> None:
    folder = exported("gpt2", tmp_path)
    path = folder / "adapter_model.safetensors"
    tensors = safetensors.torch.load_file(path)
    tensors["base_model.model.lm_head.lora_A.weight"] = torch.zeros(1, 16)
    tensors["base_model.model.lm_head.lora_B.weight"] = torch.zeros(60, 1)
    safetensors.torch.save_file(tensors, path)
    with pytest.raises(ModelError, match=r"lm_head\.weight is tied, so changing it would change all layers"):
        adopted("gpt2", tmp_path)


def test_folders_without_an_adapter_are_rejected(tmp_path: Path) -> None:
    net = home.net("llama", tmp_path / "base")
    with pytest.raises(ModelError, match=r"has no adapter_config\.json, so it is not a PEFT adapter"):
        fl.hf.adopt(net, tmp_path)
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(
        ModelError, match=r"has no adapter_model\.safetensors: ask the author of the adapter to save it again"
    ):
        fl.hf.adopt(net, tmp_path)
    (tmp_path / "adapter_model.bin").write_bytes(b"not read")
    with pytest.raises(ModelError, match=r"adapter_model\.bin, a pickle, which can run arbitrary code"):
        fl.hf.adopt(net, tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"not read")
    with pytest.raises(ModelError, match=r"because of its adapter_config\.json: it is not valid JSON"):
        fl.hf.adopt(net, tmp_path)


def test_a_second_adapter_is_rejected(tmp_path: Path) -> None:
    exported("llama", tmp_path)
    with pytest.raises(ModelError, match="an adapter is already merged"):
        fl.hf.adopt(adopted("llama", tmp_path), tmp_path / "adapter")
