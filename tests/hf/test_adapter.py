"""Export of the updates of all cycles as one PEFT adapter for the unchanged base."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import fedloru as fl
from fedloru import lowrank, methods
from fedloru import net as nets
from fedloru.errors import ModelError, RunFolderError
from fedloru.exports.trained import trained_run
from fedloru.hf.source import quiet
from tests.hf import home
from tests.hf.letters import CHAT, letters
from tests.hf.tiny import FAMILIES

pytestmark = pytest.mark.hf


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_loaded_by_peft_scores_like_the_trained_model(family: str, tmp_path: Path) -> None:
    """Without fedloru; after three merges, the factors of the fourth round are the last ranks of the adapter."""
    made = home.net(family, tmp_path / "base")
    run = home.trained(home.plan(family, made), tmp_path / "run")
    assert run.state.version == 3 and run.state.round == 4
    summary = fl.export(run, tmp_path / "out", format="peft")
    assert set(summary["ranks"].values()) == {4 * 2} and len(summary["ranks"]) == len(made.sites)
    model = home.with_peft(family, tmp_path / "base", tmp_path / "out")
    got, expected = home.logits(model, family), home.logits(run.model(), family)
    assert float((got - expected).abs().max()) < 1e-5
    assert float((expected - home.logits(home.loaded(family, tmp_path / "base"), family)).abs().max()) > 0.01
    assert summary["check"]["difference"] < 1e-5 and summary["check"]["against"] == "the trained model"
    with model.disable_adapter():
        layers = [name for name, layer in model.named_modules() if hasattr(layer, "lora_A")]
    assert len(layers) == len(made.sites)


def test_an_adapter_finds_its_base_and_tokenizer_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run names its model by a relative path; PEFT loads the adapter, without fedloru, from elsewhere."""
    import peft
    import transformers

    monkeypatch.chdir(tmp_path)
    base = home.base("llama", Path("base"))
    letters(chat_template=CHAT).save_pretrained(base)
    run = home.trained(home.plan("llama", home.net("llama", Path("base"))), Path("run"))
    fl.export(run, "out", format="peft")
    fl.export(run, "named", format="peft", base="owner/name")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")
        model = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out")
    got, expected = home.logits(model, "llama"), home.logits(run.model(), "llama")
    assert float((got[..., : expected.shape[-1]] - expected).abs().max()) < 1e-5  # PEFT adds rows for the tokenizer
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.chat_template == CHAT and tokenizer("a").input_ids == letters()("a").input_ids
    settings = json.loads((tmp_path / "named" / "adapter_config.json").read_text())
    assert (settings["base_model_name_or_path"], settings["revision"]) == ("owner/name", None)
    assert "base_model: owner/name" in (tmp_path / "named" / "README.md").read_text()


def test_fresh_factors_are_not_exported(tmp_path: Path) -> None:
    """Right after a merge, the adapter has the rank of the increments alone."""
    made = home.plan("llama", home.net("llama", tmp_path / "base"), rounds=3)
    summary = fl.export(home.trained(made, tmp_path / "run"), tmp_path / "out", format="peft")
    assert summary["merges"] == 3 and set(summary["ranks"].values()) == {3 * 2}


def test_layers_of_different_ranks_and_types(tmp_path: Path) -> None:
    """An embedding, whose factors PEFT stores transposed, and layers with another rank and scale."""
    targets = ["model.embed_tokens", "*.q_proj", "*.down_proj"]
    model = home.loaded("llama", tmp_path / "base")
    net = fl.hf.attach(model, rank=2, targets=targets, ranks={"*.0.*.q_proj": 3}, alphas={"*.down_proj": 7.0})
    run = home.trained(home.plan("llama", net), tmp_path / "run")
    summary = fl.export(run, tmp_path / "out", format="peft")
    assert sorted(set(summary["ranks"].values())) == [8, 12] and len(summary["ranks"]) == 5
    got = home.logits(home.with_peft("llama", tmp_path / "base", tmp_path / "out"), "llama")
    assert float((got - home.logits(run.model(), "llama")).abs().max()) < 1e-5


@pytest.mark.parametrize("name", home.METHODS)
def test_every_method_of_increments_and_factors(name: str, tmp_path: Path) -> None:
    made = home.plan("llama", home.net("llama", tmp_path / "base"), home.METHODS[name](), rounds=3)
    run = home.trained(made, tmp_path / "run")
    fl.export(run, tmp_path / "out", format="peft")
    got = home.logits(home.with_peft("llama", tmp_path / "base", tmp_path / "out"), "llama")
    with torch.no_grad(), nets.mode(run.plan.net, False):
        expected = nets.forward(run.plan.net, run.tensors, run.plan.dataset.test).logits
    real = torch.arange(9) < run.plan.dataset.test["length"][:, None]
    assert float(((got - expected) * real[:, :, None]).abs().max()) < 1e-5
    assert float((got - home.logits(home.loaded("llama", tmp_path / "base"), "llama")).abs().max()) > 0.005


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (methods.fedavg(), "trains whole weights, so the update is not a low-rank adapter: export the merged model"),
        (methods.fedhm(), "are not those of .* with the 0 increments"),
        (methods.fedlmt(), "are not those of"),
        (methods.fedpara(), "are not those of"),
        (methods.fedloru(recipe="paper", tau=1, base="zero"), "are not those of .* with the 2 increments"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_methods_that_change_weights_in_another_way_are_rejected(method: Any, message: str, tmp_path: Path) -> None:
    """The message says what can be exported instead, and nothing is written."""
    low_rank = method.traits.low_rank
    made = home.net("llama", tmp_path / "base") if low_rank else fl.hf.make(home.loaded("llama", tmp_path / "base"))
    profiles = ((("rank", 1.0),),) * 4 if method.traits.ranks == "different" else ()
    run = home.trained(home.plan("llama", made, method, rounds=2, profiles=profiles), tmp_path / "run")
    with pytest.raises(ModelError, match=message):
        fl.export(run, tmp_path / "out", format="peft")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "run"]
    fl.export(run, tmp_path / "out", format="merged")


def test_truncation_loses_the_smallest_singular_values(tmp_path: Path) -> None:
    """For every layer, compared with the dense SVD; the check then uses the truncated weights."""
    run = home.trained(home.plan("llama", home.net("llama", tmp_path / "base")), tmp_path / "run")
    summary = fl.export(run, tmp_path / "out", format="peft", rank=3)
    assert set(summary["ranks"].values()) == {3}
    whole = trained_run(run)
    start = dict(home.loaded("llama", tmp_path / "base").named_parameters())
    truncated = safetensors.torch.load_file(tmp_path / "out" / "adapter_model.safetensors")
    for site in run.plan.net.sites:
        parts = [*whole.increments, lowrank.increment([site], run.state.shared)]
        dense = sum(
            lowrank.delta(each, part.factors).double()
            for part in parts
            for each in part.sites
            if each.weight == site.weight
        )
        assert isinstance(dense, torch.Tensor)
        sigma = torch.linalg.svdvals(dense)
        assert summary["errors"][site.weight] == pytest.approx(float(sigma[3:].norm() / sigma.norm()), rel=1e-4)
        name = f"base_model.model.{site.weight.removesuffix('.weight')}"
        kept = truncated[f"{name}.lora_B.weight"] @ truncated[f"{name}.lora_A.weight"]
        assert float((dense - kept).norm() / sigma.norm()) == pytest.approx(summary["errors"][site.weight], rel=1e-3)
        assert site.weight in start
    check = summary["check"]
    assert check["against"] == "the weights with the truncated adapter" and check["difference"] < 1e-5
    assert check["training"] > 1e-3


def test_an_adapter_of_a_bfloat16_model_is_not_rounded(tmp_path: Path) -> None:
    """Merges into bfloat16 lose digits that the adapter keeps, so both differences are reported."""
    made = home.net("llama", tmp_path / "base", dtype=torch.bfloat16)
    summary = fl.export(home.trained(home.plan("llama", made), tmp_path / "run"), tmp_path / "out", format="peft")
    assert summary["base"]["dtype"] == "bfloat16"
    check = summary["check"]
    assert check["against"] == "the unrounded sum of the base and all increments"
    assert check["difference"] < 1e-5 < check["training"] < 0.05


def test_a_pretrained_head_is_included(tmp_path: Path) -> None:
    """PEFT loads a classifier with a copy of its head, even if that was not trained."""
    first = home.trained(home.plan("bert", home.net("bert", tmp_path / "base")), tmp_path / "first")
    fl.export(first, tmp_path / "whole", format="merged")
    kept = fl.hf.attach(fl.hf.load(str(tmp_path / "whole"), task="classify", classes=home.CLASSES), rank=2)
    assert kept.trainable == kept.factors
    run = home.trained(home.plan("bert", kept), tmp_path / "run")
    fl.export(run, tmp_path / "out", format="peft")
    settings = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert settings["modules_to_save"] == ["classifier"] and settings["task_type"] == "SEQ_CLS"
    got = home.logits(home.with_peft("bert", tmp_path / "whole", tmp_path / "out"), "bert")
    assert float((got - home.logits(run.model(), "bert")).abs().max()) < 1e-5


def test_the_padding_token_of_a_causal_model_as_classifier_is_exported(tmp_path: Path) -> None:
    """GPT-2 has none, and rejects batches without one; the code of the card sets it."""
    folder = home.base("gpt2", tmp_path / "base")
    net = fl.hf.attach(fl.hf.load(str(folder), task="classify", classes=home.CLASSES), rank=2)
    run = home.trained(home.plan("bert", net), tmp_path / "run")
    expected = home.logits(run.model(), "bert")
    for format in ("merged", "peft"):
        fl.export(run, tmp_path / format, format=format)
        (code,) = re.findall(r"## Use\n\n```python\n(.*?)```", (tmp_path / format / "README.md").read_text(), re.DOTALL)
        names: dict[str, Any] = {}
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec(code.replace("THIS FOLDER", str(tmp_path / format)), names)
        assert float((home.logits(names["model"], "bert") - expected).abs().max()) < 1e-5


def test_a_layer_with_factors_and_a_trained_bias_is_rejected(tmp_path: Path) -> None:
    model = home.loaded("gpt2", tmp_path / "base")
    model.get_parameter("transformer.h.0.attn.c_attn.bias").requires_grad_()
    run = home.trained(home.plan("gpt2", fl.hf.attach(model, rank=2), rounds=1), tmp_path / "run")
    with pytest.raises(ModelError, match=r"c_attn is trained whole and also has factors"):
        fl.export(run, tmp_path / "out", format="peft")


def test_a_base_created_in_memory_is_rejected(tmp_path: Path) -> None:
    from tests.hf.tiny import net as in_memory

    made = in_memory("llama", dtype=torch.float32)
    run = home.trained(home.plan("llama", made), tmp_path / "run")
    with pytest.raises(ModelError, match="was created in memory, so its adapter would have no base"):
        fl.export(run, tmp_path / "out", format="peft")
    fl.export(run, tmp_path / "out", format="merged")


def test_a_changed_base_is_rejected(tmp_path: Path) -> None:
    run = home.trained(home.plan("llama", home.net("llama", tmp_path / "base")), tmp_path / "run")
    (tmp_path / "base").rename(tmp_path / "old")
    home.base("llama", tmp_path / "base", seed=2)
    with pytest.raises(ModelError, match="the base has changed"):
        fl.export(run, tmp_path / "out", format="peft")


def test_an_untrained_model_has_no_adapter(tmp_path: Path) -> None:
    run = home.trained(home.plan("llama", home.net("llama", tmp_path / "base"), rounds=1), tmp_path / "run")
    first = run.plan.method.init(run.plan.net, run.plan.seed)
    run.last = run.last._replace(state=first)
    with pytest.raises(ModelError, match=r"does not differ from .* yet, so there is no adapter: train it"):
        fl.export(run, tmp_path / "out", format="peft")


def test_missing_increments_are_reported(tmp_path: Path) -> None:
    made = home.plan("llama", home.net("llama", tmp_path / "base"), increments=False)
    run = home.trained(made, tmp_path / "run")
    with pytest.raises(RunFolderError, match="lacks the increments of versions 1, 2, 3"):
        fl.export(run, tmp_path / "out", format="peft")
    bare = fl.Run(made)
    list(bare)
    with pytest.raises(RunFolderError, match="merged 3 increments, but they were not kept"):
        fl.export(bare, tmp_path / "out", format="peft")
