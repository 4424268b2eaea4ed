"""Export of the whole model as a folder for ``from_pretrained``, and the check of every export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import fedloru as fl
from fedloru import methods
from fedloru.errors import ConfigError, ModelError
from fedloru.exports import checks, formats
from fedloru.hf import adapter as adapters
from tests.hf import home
from tests.hf.letters import letters
from tests.hf.tiny import FAMILIES

pytestmark = pytest.mark.hf


def run(family: str, tmp_path: Path, **settings: Any) -> fl.Run:
    return home.trained(home.plan(family, home.net(family, tmp_path / "base"), **settings), tmp_path / "run")


@pytest.mark.parametrize("family", FAMILIES)
def test_from_pretrained_loads_the_trained_model(family: str, tmp_path: Path) -> None:
    """With the library's Conv1D, tied weights tied, and the configuration of the base."""
    made = run(family, tmp_path)
    summary = fl.export(made, tmp_path / "out")
    model = home.auto(family).from_pretrained(tmp_path / "out")
    assert type(model) is type(made.plan.net.model)
    assert float((home.logits(model, family) - home.logits(made.model(), family)).abs().max()) == 0
    assert summary["check"]["difference"] < 1e-5 and summary["format"] == "merged"
    assert model.config.use_cache
    before = json.loads((tmp_path / "base" / "config.json").read_text())
    after = json.loads((tmp_path / "out" / "config.json").read_text())
    new = {"architectures", "id2label", "label2id"} if family == "bert" else set()
    assert {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)} == new
    if family in ("gpt2", "qwen3"):
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    if family == "gpt2":
        assert type(model.transformer.h[0].attn.c_attn).__name__ == "Conv1D"
    if family == "bert":
        assert model.config.id2label == dict(enumerate(home.CLASSES))


def test_a_model_with_all_weights_trained(tmp_path: Path) -> None:
    net = fl.hf.make(home.loaded("qwen3", tmp_path / "base"))
    made = home.trained(home.plan("qwen3", net, methods.fedavg(), rounds=1), tmp_path / "run")
    fl.export(made, tmp_path / "out")
    model = home.auto("qwen3").from_pretrained(tmp_path / "out")
    assert torch.equal(home.logits(model, "qwen3"), home.logits(made.model(), "qwen3"))


def test_the_dtype_and_the_tokenizer_are_kept(tmp_path: Path) -> None:
    import transformers

    folder = home.base("llama", tmp_path / "base")
    letters().save_pretrained(folder)
    net = fl.hf.attach(fl.hf.load(str(folder), dtype=torch.bfloat16), rank=2)
    summary = fl.export(home.trained(home.plan("llama", net), tmp_path / "run"), tmp_path / "out")
    model = home.auto("llama").from_pretrained(tmp_path / "out")
    assert {str(p.dtype) for p in model.parameters()} == {"torch.bfloat16"}
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("Once upon").input_ids == letters()("Once upon").input_ids
    check = summary["check"]
    assert check["against"] == "the merged weights, rounded to their dtype"
    assert check["difference"] == 0 < check["training"] < 0.05


@pytest.mark.parametrize("format", ["merged", "peft"])
def test_a_wrong_weight_is_an_error_and_nothing_is_written(
    format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check compares the model that is loaded from disk."""
    made = run("llama", tmp_path)

    def broken(model: Any) -> Any:
        with torch.no_grad():
            next(p for name, p in model.named_parameters() if "v_proj" in name).view(-1)[0] += 0.5
        return model

    if format == "merged":
        monkeypatch.setattr(formats.hf, "load_merged", lambda *a: broken(home.auto("llama").from_pretrained(a[1])))
    else:
        load = adapters._load
        monkeypatch.setattr(adapters, "_load", lambda *a: broken(load(*a)))
    with pytest.raises(ModelError, match="does not score 8 examples like the trained model"):
        fl.export(made, tmp_path / "out", format=format)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "run"]


def test_nan_scores_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = run("llama", tmp_path)
    scores = checks.scores
    monkeypatch.setattr(checks, "scores", lambda *a: scores(*a) * float("nan"))
    with pytest.raises(ModelError, match="does not score 8 examples like the trained model"):
        fl.export(made, tmp_path / "out")


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    made = run("llama", tmp_path, rounds=1)
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="out exists already: name a new folder"):
        fl.export(made, tmp_path / "out")
    with pytest.raises(ConfigError, match="is in a folder that does not exist"):
        fl.export(made, tmp_path / "nowhere" / "out")
    with pytest.raises(ConfigError, match=r"there is no format 'pef'; did you mean 'peft'\?"):
        fl.export(made, tmp_path / "new", format="pef")
    with pytest.raises(ConfigError, match="only adapters can be truncated"):
        fl.export(made, tmp_path / "new", rank=1)
    with pytest.raises(ConfigError, match="rank is 0, expected 1 or more"):
        fl.export(made, tmp_path / "new", format="peft", rank=0)


@pytest.mark.parametrize("format", ["merged", "peft"])
def test_the_card_has_a_valid_header_for_the_hub(format: str, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    made = run("bert", tmp_path)
    summary = fl.export(made, tmp_path / "out", format=format)
    card = ModelCard.load(tmp_path / "out" / "README.md")
    data = card.data.to_dict()
    assert data["library_name"] == {"merged": "transformers", "peft": "peft"}[format]
    assert data["pipeline_tag"] == "text-classification" and "license" not in data and "base_model" not in data
    assert {"federated-learning", "fedloru"} <= set(data["tags"])
    for text in ("ham, spam, eggs", "fedloru", "4, 3 per round", "4, with 3 merges"):
        assert text in card.text
    assert summary["up_bytes"] == made.rows[-1]["up_bytes_total"] > 0
    assert f"{summary['up_bytes'] / 1e6:,.3f} MB" in card.text
    assert json.loads((tmp_path / "out" / "fedloru.json").read_text()) == summary
