"""Load models from folders of safetensors, complete and pinned, and prepare them for training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fedloru import hf
from fedloru import net as nets
from fedloru.errors import ConfigError, ModelError
from fedloru.hf import targets
from tests.hf.tiny import FAMILIES, WORDS, model, texts

pytestmark = pytest.mark.hf

COMMIT = "0123456789" * 4
CLASSES = ("ham", "spam", "eggs")


def saved(family: str, folder: Path, *, body: bool = False) -> Path:
    """Save an unprepared model; with ``body``, only its encoder."""
    import transformers

    with torch.random.fork_rng():
        torch.manual_seed(1)
        made: Any = FAMILIES[family](transformers)
    (made.base_model if body else made).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def _without_bars() -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3"])
def test_a_loaded_model_scores_like_that_of_transformers(family: str, tmp_path: Path) -> None:
    """With or without Conv1D and tied heads; all weights are frozen, and the cache is disabled."""
    import transformers

    folder = saved(family, tmp_path)
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder)
    loaded: Any = hf.load(str(folder), attention="eager")
    assert not any("Conv1D" in type(layer).__name__ for layer in loaded.modules())
    assert not any(p.requires_grad for p in loaded.parameters())
    assert loaded.config._attn_implementation == "eager"
    ids = texts(family)["input_ids"]
    with torch.no_grad():
        out = loaded(ids)
        torch.testing.assert_close(out.logits, plain(ids).logits, rtol=1e-5, atol=1e-5)
    assert getattr(out, "past_key_values", None) is None
    assert loaded.state_dict().keys() == plain.state_dict().keys()
    transposed = hf.transposed(loaded)
    for key, value in plain.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value.T if key in transposed else value)
    assert len(transposed) == (8 if family == "gpt2" else 0)


def test_dtypes_of_weights_and_factors(tmp_path: Path) -> None:
    """Weights stay bfloat16, but their factors are float32, so that small steps are not lost."""
    folder = saved("llama", tmp_path)
    net = hf.attach(hf.load(str(folder), dtype=torch.bfloat16), rank=2)
    assert {str(t.dtype) for key, t in net.params.items() if key not in net.factors} == {"torch.bfloat16"}
    assert {str(net.params[key].dtype) for key in net.factors} == {"torch.float32"}


def test_a_fresh_head_depends_only_on_the_seed(tmp_path: Path) -> None:
    folder = str(saved("bert", tmp_path, body=True))
    first = hf.load(folder, task="classify", classes=CLASSES, seed=1)
    torch.rand(3)
    place = torch.get_rng_state()
    again, other = (hf.load(folder, task="classify", classes=CLASSES, seed=seed) for seed in (1, 2))
    assert torch.equal(torch.get_rng_state(), place)
    heads: list[Any] = [m.get_submodule("classifier") for m in (first, again, other)]
    assert torch.equal(heads[0].weight, heads[1].weight) and not torch.equal(heads[0].weight, heads[2].weight)
    assert heads[0].weight.shape == (3, 16) and not heads[0].bias.any()
    assert float(heads[0].weight.detach().std()) == pytest.approx(0.02, rel=0.3)
    trained = {name for name, p in first.named_parameters() if p.requires_grad}
    assert trained == {"classifier.weight", "classifier.bias"}
    assert first.config.id2label == dict(enumerate(CLASSES))  # type: ignore[union-attr]


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3"])
def test_a_causal_model_becomes_a_classifier(family: str, tmp_path: Path) -> None:
    made = hf.load(str(saved(family, tmp_path)), task="classify", classes=CLASSES)
    assert [name for name, p in made.named_parameters() if p.requires_grad] == ["score.weight"]
    net = hf.attach(made, rank=2)
    assert net.trainable - net.factors == {"score.weight"} and net.unit == "example"


def test_a_classifier_without_a_padding_token_reads_the_last_token(tmp_path: Path) -> None:
    """Token 0 is not padding: it is the exclamation mark of GPT-2."""
    folder = str(saved("gpt2", tmp_path))
    plain: Any = hf.load(folder, task="classify", classes=CLASSES)
    net = hf.attach(plain, rank=2)
    text = torch.tensor([[5, 6, 7, 0]])
    batch = {"input_ids": torch.nn.functional.pad(text, (0, 2)), "length": torch.tensor([4])}
    with torch.no_grad():
        got: Any = nets.forward(net, net.params | net.buffers, batch)
        expected = plain.score(plain.transformer(text).last_hidden_state[:, -1])
    assert torch.allclose(got.logits, expected, atol=1e-6)


def test_a_head_for_the_same_classes_is_kept(tmp_path: Path) -> None:
    import transformers

    config = {"id2label": dict(enumerate(CLASSES)), "label2id": {name: i for i, name in enumerate(CLASSES)}}
    size = {"vocab_size": WORDS, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    made = transformers.BertForSequenceClassification(transformers.BertConfig(**size, num_attention_heads=2, **config))
    made.save_pretrained(tmp_path)
    kept, reordered = (hf.load(str(tmp_path), task="classify", classes=names) for names in (CLASSES, CLASSES[::-1]))
    assert torch.equal(kept.get_parameter("classifier.weight"), made.classifier.weight)
    assert not any(p.requires_grad for p in kept.parameters())
    assert not torch.equal(reordered.get_parameter("classifier.weight"), made.classifier.weight)
    assert reordered.get_parameter("classifier.weight").requires_grad


def test_pickled_weights_are_rejected_before_anything_is_read(tmp_path: Path) -> None:
    saved("llama", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "config.json").write_text("not read")
    (tmp_path / "pytorch_model.bin").write_bytes(b"not read")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin, a pickle, which can run arbitrary code"):
        hf.load(str(tmp_path))


def test_truncated_weight_files_are_reported(tmp_path: Path) -> None:
    file = saved("llama", tmp_path) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"the model of .* cannot be loaded: .*file not fully covered"):
        hf.load(str(tmp_path))


def test_remote_code_is_not_run(tmp_path: Path) -> None:
    saved("llama", tmp_path)
    config = (tmp_path / "config.json").read_text()
    remote = '"auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Model"}, "model_type": "own"'
    (tmp_path / "config.json").write_text(config.replace('"model_type": "llama"', remote))
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ModelError, match="trust_remote_code"):
        hf.load(str(tmp_path))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        ("bert", {}, "lacks the weights cls.predictions"),
        ("llama", {"task": "classify", "classes": ["one"]}, "1 classes are given, but a classifier needs 2"),
        ("llama", {"classes": ["a", "b"]}, "a causal model has none"),
        ("llama", {"task": "translate"}, "expected 'causal' or 'classify'"),
        ("llama", {"revision": COMMIT}, "is a folder, so it has no revision"),
    ],
)
def test_invalid_settings_are_rejected(family: str, settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises((ModelError, ConfigError), match=message):
        hf.load(str(saved(family, tmp_path)), **settings)


@pytest.mark.parametrize(
    ("name", "revision", "message"),
    [
        ("owner/name", None, "set revision to the 40 digits of a commit"),
        ("owner/name", "main", r"got 'main'"),
        ("./nowhere", None, "there is no folder"),
        ("a/b/c", COMMIT, "there is no folder"),
    ],
)
def test_a_name_on_the_hub_needs_a_commit(name: str, revision: str | None, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        hf.load(name, revision=revision)


def test_folders_without_a_model_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no config\.json"):
        hf.load(str(tmp_path))
    (tmp_path / "adapter_config.json").touch()
    with pytest.raises(ModelError, match="holds an adapter, not a model"):
        hf.load(str(tmp_path))
    (tmp_path / "config.json").touch()
    with pytest.raises(ModelError, match=r"has no \*\.safetensors"):
        hf.load(str(tmp_path))
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ModelError, match="has no tokenizer"):
        hf.tokenizer(str(tmp_path))


def test_an_encoder_is_rejected_as_a_causal_model(tmp_path: Path) -> None:
    """BERT with its output head scores tokens, but attends to the token it predicts."""
    import transformers

    size = {"vocab_size": WORDS, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    transformers.BertForMaskedLM(transformers.BertConfig(**size, num_attention_heads=2)).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="attends to later tokens"):
        hf.load(str(tmp_path))


@pytest.mark.parametrize(
    ("family", "expected"),
    [("llama", ["*.q_proj", "*.v_proj"]), ("gpt2", ["*.c_attn"]), ("bert", ["*.query", "*.value"])],
)
def test_the_default_targets_are_those_of_peft(family: str, expected: list[str]) -> None:
    made = model(family)
    assert hf.usual_targets(made) == expected
    sites = hf.attach(made, rank=1).sites
    assert len(sites) == 2 * len(expected) and all(site.weight.split(".")[-2] in str(expected) for site in sites)


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_an_unknown_model_type_gets_factors_in_all_linear_layers_but_the_head(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Empty:
        TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING: dict[str, list[str]] = {}

    monkeypatch.setattr(targets, "library", lambda name: Empty)
    made = model(family)
    linear = {name for name, layer in made.named_modules() if isinstance(layer, torch.nn.Linear)}
    adapted = {site.weight.removesuffix(".weight") for site in hf.attach(made, rank=1).sites}
    assert linear - adapted == ({"lm_head"} if family == "llama" else {"classifier"})


def test_a_net_that_trains_every_weight_is_a_copy() -> None:
    made = model("llama")
    net = hf.make(made)
    assert net.trainable == net.params.keys()
    assert not any(p.requires_grad for p in made.parameters())


def test_frozen_weights_are_shared_with_the_model() -> None:
    made = model("llama")
    net = hf.attach(made, rank=2)
    pointers = {name: p.data_ptr() for name, p in made.named_parameters()}
    assert all(net.params[name].data_ptr() == pointer for name, pointer in pointers.items())
    assert all(p.data_ptr() == pointers[name] for name, p in net.model.named_parameters() if name in pointers)


def test_a_model_without_a_head_is_rejected() -> None:
    with pytest.raises(ModelError, match="neither predicts the next token nor classifies texts"):
        hf.attach(model("llama").model, rank=1)  # type: ignore[arg-type]


def test_an_encoder_decoder_classifier_is_rejected_before_training(tmp_path: Path) -> None:
    import transformers

    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}
    size = {"vocab_size": 20, "d_model": 8, "encoder_layers": 1, "decoder_layers": 1}
    transformers.BartModel(transformers.BartConfig(**size, **heads)).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="BartForSequenceClassification has an encoder and a decoder"):
        hf.load(str(tmp_path), task="classify", classes=("a", "b"))


def test_a_model_without_a_padding_token_is_trained() -> None:
    import transformers

    size = {"vocab_size": 20, "n_positions": 16, "n_ctx": 16, "n_embd": 16, "n_layer": 1, "n_head": 4, "rotary_dim": 4}
    net = hf.attach(hf.prepare(transformers.CodeGenForCausalLM(transformers.CodeGenConfig(**size))), rank=2)
    inputs = net.inputs({"input_ids": torch.ones(1, 4, dtype=torch.long), "length": torch.tensor([2])})  # type: ignore[misc]
    assert inputs["input_ids"].tolist() == [[1, 1, 0, 0]]
