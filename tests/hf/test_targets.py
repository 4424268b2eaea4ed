"""The default layers of language models: those that texts reach, that PEFT adapts and that are matrices."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from fedloru import hf
from fedloru.errors import ModelError
from fedloru.hf import preparation, targets
from fedloru.hf.base import body_hash
from fedloru.hf.reach import reached
from tests.hf.families import tiny

pytestmark = pytest.mark.hf


def attached(kind: str, **settings: Any) -> Any:
    return hf.attach(hf.prepare(tiny(kind, **settings)), rank=2)


def adapted(net: Any) -> set[str]:
    return {site.weight.removesuffix(".weight") for site in net.sites}


def test_what_peft_refuses_is_left_out() -> None:
    net = attached("mamba")
    assert not any(name.endswith("out_proj") for name in adapted(net)) and any("in_proj" in n for n in adapted(net))
    assert net.skipped["backbone.layers.*.mixer.out_proj"] == "PEFT cannot adapt it in a model of this type"


def test_what_peft_takes_for_experts_is_left_out() -> None:
    """PEFT adapts the stacked experts if it is asked for a layer called down_proj."""
    net = attached("deepseek_v3")
    assert "model.layers.0.self_attn.o_proj" in adapted(net)
    assert "model.layers.0.mlp.down_proj" not in adapted(net) and "model.layers.*.mlp.down_proj" in net.skipped


def test_the_vision_tower_of_a_multimodal_model_gets_no_factors() -> None:
    net = attached("gemma3")
    assert adapted(net) and not any("vision" in name for name in adapted(net))
    reason = "no text depends on what it computes, so it would learn nothing"
    assert net.skipped["model.vision_tower.encoder.layers.*.self_attn.q_proj"] == reason
    model = hf.prepare(tiny("gemma3"))
    assert adapted(hf.attach(model, rank=2, targets=hf.usual_targets(model))) == adapted(net)


def test_a_layer_whose_weight_is_read_without_calling_it_is_left_out() -> None:
    """Mamba multiplies by the weight of dt_proj, so that factors of it would have no effect."""
    assert "backbone.layers.*.mixer.dt_proj" in attached("mamba").skipped


def test_vectors_and_stacked_experts_are_left_out_with_a_note() -> None:
    net = attached("qwen2_moe")
    assert net.skipped["model.layers.*.mlp.shared_expert_gate"] == "its weight is a vector"
    assert "three axes" in net.skipped["model.layers.*.mlp.experts.gate_up_proj"]


def test_subclasses_of_linear_are_judged_by_what_they_compute() -> None:
    assert any(name.endswith("query_key_value") for name in adapted(attached("falcon")))
    phi = hf.prepare(tiny("phimoe"))
    assert {type(layer).__name__ for layer in phi.modules() if isinstance(layer, nn.Linear)} > {"PhimoeTopKRouter"}
    assert not any("router" in glob for glob in hf.usual_targets(phi))


class Same(nn.Linear):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return input @ self.weight.T + self.bias


class Clamped(nn.Linear):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input.clamp(-100, 100))


class Noisy(nn.Linear):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) + 0.1 * torch.rand(()) * self.training


class Masked(nn.Linear):
    def __init__(self, i: int, o: int) -> None:
        super().__init__(i, o)
        self.register_buffer("mask", torch.ones(o, i))

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(input, self.weight * self.mask, self.bias)  # type: ignore[operator]


@pytest.mark.parametrize(("kind", "same"), [(Same, True), (Clamped, False), (Noisy, False), (Masked, False)])
def test_a_layer_is_linear_if_it_computes_so_and_has_no_other_state(kind: type[nn.Linear], same: bool) -> None:
    layer = kind(5, 3).eval()
    before = torch.get_rng_state()
    assert preparation.computes_linear(layer) is same
    assert not layer.training and torch.equal(torch.get_rng_state(), before)


class Experts(nn.Module):
    """A causal model with two lists of experts; each token goes to the expert of its number."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(99))
        self.unused = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
        self.head = nn.Linear(4, 10)
        self.config: Any = type("Config", (), {"vocab_size": 10, "to_dict": lambda self: {}})()
        self.config.get_text_config = lambda: self.config
        self.device: Any = torch.device("cpu")

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        h = self.embed(input_ids).flatten(0, 1)
        out = torch.zeros_like(h)
        for number in input_ids.unique().tolist():
            rows = (input_ids.flatten() == number).nonzero().squeeze(1)
            out = out.index_add(0, rows, self.experts[number](h[rows]))
        return type("Out", (), {"logits": self.head(out)})()


def test_experts_that_no_token_of_the_batch_is_routed_to_count_as_reached() -> None:
    model = Experts()
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    assert layers.keys() - reached(model, layers) == {"unused.0", "unused.1"}


def test_the_probe_leaves_the_model_as_it_was() -> None:
    model = hf.prepare(tiny("llama"), trained=["lm_head.weight"]).train()
    hf.usual_targets(model)
    assert all(layer.training and not layer._forward_hooks for layer in model.modules())
    assert [name for name, p in model.named_parameters() if p.requires_grad or p.grad is not None] == ["lm_head.weight"]


def test_globs_match_exactly_the_chosen_layers() -> None:
    layers = ["a.0.q", "a.1.q", "b.0.q", "b.0.up", "b.1.up", "b.1.x.up"]
    assert targets._globs(["a.0.q", "a.1.q", "b.0.q"], layers) == ["*.q"]
    assert targets._globs(["a.0.q", "a.1.q"], layers) == ["a.*.q"]
    assert targets._globs(["t.a.0.q", "t.b.0.q"], ["t.a.0.q", "t.b.0.q", "v.a.0.q"]) == ["t.*.q"]
    assert targets._globs(["a.1.q"], layers) == ["a.1.q"]
    assert targets._globs(["b.0.up", "b.1.up"], layers) == ["b.0.up", "b.1.up"]


@pytest.mark.parametrize("kind", ["llama4_text", "mllama", "gpt2"])
def test_the_hash_of_the_body_tells_models_apart(kind: str) -> None:
    """Also where ``base_model_prefix`` names nothing."""
    net = attached(kind)
    key = next(key for key in net.params if key.endswith(("q_proj.weight", "c_attn.weight")))
    other = net.params | {key: net.params[key] + 1}
    assert body_hash(net, net.params) != body_hash(net, other)
    heads = {key: value + 1 for key, value in net.params.items() if key.startswith("lm_head")}
    assert body_hash(net, net.params) == body_hash(net, net.params | heads)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_model_with_an_adapter_of_peft_is_refused() -> None:
    import peft

    config = peft.LoraConfig(target_modules=["q_proj"])
    wrapped = peft.get_peft_model(tiny("llama"), config)
    injected = tiny("llama")
    injected.add_adapter(config)
    for model in (wrapped, injected):
        for use in (hf.prepare, hf.attach, hf.make):
            with pytest.raises(ModelError, match=r"with an adapter of PEFT.*merge_and_unload.*fedloru\.hf\.adopt"):
                use(model)
    assert hf.attach(hf.prepare(wrapped.merge_and_unload()), rank=2).sites


def test_a_module_of_another_library_is_refused() -> None:
    with pytest.raises(ModelError, match="a Linear, but a model of transformers is expected"):
        hf.prepare(nn.Linear(2, 2))
