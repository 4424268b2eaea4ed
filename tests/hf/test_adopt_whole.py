"""Adapters with embeddings, heads and modules that PEFT saves whole: adopted with PEFT's logits, or refused."""

from __future__ import annotations

import logging
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fedloru as fl
from fedloru import hf
from fedloru import net as nets
from fedloru.errors import ModelError
from fedloru.net import Net
from tests.hf import home
from tests.hf.families import tiny

pytestmark = [pytest.mark.hf, pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")]

IDS = torch.arange(3, 27).reshape(2, 12)


def saved(folder: Path, kind: str = "llama", *, tie: bool = False, resize: int | None = None, **config: Any) -> Tensor:
    """Save a base and an adapter with random factors by PEFT's defaults, and return the logits of PEFT's model."""
    import peft
    import transformers

    with home.quiet():
        tiny(kind, tie_word_embeddings=tie).save_pretrained(folder / "base")
        base = transformers.AutoModelForCausalLM.from_pretrained(folder / "base")
        if resize:
            base.resize_token_embeddings(resize)
        usual = {"r": 4, "lora_alpha": 12, "target_modules": ["q_proj"], "init_lora_weights": False}
        with warnings.catch_warnings(), torch.random.fork_rng():
            warnings.simplefilter("ignore")
            torch.manual_seed(2)
            model = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", **(usual | config)))
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if "modules_to_save" in name or "token_adapter" in name:
                        parameter.add_(0.1 * torch.randn_like(parameter))
            model.save_pretrained(folder / "adapter")
            again = transformers.AutoModelForCausalLM.from_pretrained(folder / "base")
            if resize:
                again.resize_token_embeddings(resize)
            loaded = peft.PeftModel.from_pretrained(again, folder / "adapter").eval()
    with torch.no_grad():
        logits: Tensor = loaded(IDS).logits
    return logits


def adopted(folder: Path, **settings: Any) -> Net:
    return hf.adopt(hf.attach(hf.load(str(folder / "base")), rank=2, **settings), folder / "adapter")


def logits(net: Net) -> Tensor:
    with torch.no_grad():
        found: Tensor = nets.load(net, net.params | net.buffers).eval()(IDS).logits
    return found


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["embed_tokens"]},
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["embed_tokens", "lm_head"], "use_rslora": True},
        {"target_modules": r".*(embed_tokens|v_proj)"},
        {"target_modules": "all-linear"},
        {"modules_to_save": ["lm_head"]},
        {"modules_to_save": ["embed_tokens", "lm_head"]},
        {"modules_to_save": ["norm"]},
        {"modules_to_save": ["mlp"]},
        {"rank_pattern": {r"layers\.0.*q_proj": 8}, "alpha_pattern": {"layers.1.self_attn.q_proj": 32}},
        {"target_modules": ["q_proj", "v_proj"], "layers_to_transform": [1]},
    ],
    ids=str,
)
def test_an_adapter_gives_the_logits_of_peft(config: dict[str, Any], tmp_path: Path) -> None:
    expected = saved(tmp_path, **config)
    net = adopted(tmp_path)
    torch.testing.assert_close(logits(net), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    assert bool(net.trainable - net.factors) is ("modules_to_save" in config)


@pytest.mark.parametrize(
    "config", [{"target_modules": ["c_attn"]}, {"modules_to_save": ["mlp", "attn.c_proj"]}], ids=str
)
def test_weights_of_conv1d_are_transposed(config: dict[str, Any], tmp_path: Path) -> None:
    """Those of square layers too, whose shape does not tell."""
    expected = saved(tmp_path, "gpt2", **({"target_modules": ["c_attn"], "fan_in_fan_out": True} | config))
    torch.testing.assert_close(logits(adopted(tmp_path)), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_a_copy_of_the_base_may_be_rounded(tmp_path: Path) -> None:
    import safetensors.torch

    saved(tmp_path, target_modules=["embed_tokens"])
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = safetensors.torch.load(path.read_bytes())
    key = "base_model.model.model.embed_tokens.base_layer.weight"
    path.write_bytes(safetensors.torch.save(tensors | {key: tensors[key].bfloat16()}))
    assert adopted(tmp_path).imported
    path.write_bytes(safetensors.torch.save(tensors | {key: tensors[key] + 1}))
    with pytest.raises(ModelError, match=r"trained on another base, whose model\.embed_tokens\.weight differs"):
        adopted(tmp_path)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"tie": True, "target_modules": ["q_proj", "lm_head"]}, "lm_head.weight is tied"),
        ({"tie": True, "target_modules": ["q_proj", "embed_tokens"]}, "model.embed_tokens.weight is tied"),
        ({"tie": True, "modules_to_save": ["lm_head"]}, "a separate copy of lm_head.weight, which is tied"),
        ({"resize": 70}, "is 64 × 32 in the model but 70 × 32 in the adapter: if its vocabulary was resized"),
        ({"trainable_token_indices": [5, 6]}, "trained rows of an embedding"),
        ({"use_dora": True}, "DoRA"),
        ({"bias": "lora_only"}, "it has trained biases"),
        ({"modules_to_save": ["v_proj"]}, "this layer is to get factors: leave it out of the targets"),
    ],
    ids=str,
)
def test_what_cannot_be_adopted_is_refused(config: dict[str, Any], reason: str, tmp_path: Path) -> None:
    saved(tmp_path, **config)
    with pytest.raises(ModelError, match=re.escape(reason)):
        adopted(tmp_path)


def test_several_alphas_for_one_layer_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """PEFT saves the patterns sorted, so that the first one may be another than in training."""
    expected = saved(tmp_path, alpha_pattern={"q_proj": 32, "layers.0.self_attn.q_proj": 64})
    with caplog.at_level(logging.WARNING, "fedloru"):
        net = adopted(tmp_path)
    assert any("several values for model.layers.0.self_attn.q_proj" in message for message in caplog.messages)
    torch.testing.assert_close(logits(net), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_modules_saved_whole_are_exported_again(tmp_path: Path) -> None:
    from tests.hf.families import script

    families = script("families")
    saved(tmp_path, modules_to_save=["lm_head"])
    net = adopted(tmp_path)
    data = families.examples(net.model, "causal")
    dataset = fl.data.Dataset("random tokens", data, data, ())
    run = families._run(net, dataset, fl.data.iid(dataset, clients=4), "sequential", tmp_path / "run")
    for format in ("peft", "merged"):
        assert fl.export(run, tmp_path / format, format=format)["check"]["difference"] < 1e-4
