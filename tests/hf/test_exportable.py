"""Whether a model can be exported is known before training, as PEFT itself says, and exports it wraps by name work."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

import fedloru as fl
from fedloru import hf
from fedloru.hf.adapter import adapter_problem
from fedloru.hf.export import merged_problem
from tests.hf import home
from tests.hf.families import script, tiny

pytestmark = [pytest.mark.hf, pytest.mark.filterwarnings("ignore::FutureWarning")]


def loaded(kind: str, folder: Path, **settings: Any) -> Any:
    tiny(kind, classes=len(settings.get("classes", ())) or None).save_pretrained(folder)
    return hf.load(str(folder), **settings)


def test_targets_that_peft_refuses_are_reported_when_factors_are_attached(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = loaded("mamba", tmp_path / "base")
    assert adapter_problem(hf.attach(model, rank=2)) is None
    caplog.clear()
    with caplog.at_level(logging.WARNING, "fedloru"):
        hf.attach(model, rank=2, targets=["*.out_proj"])
    [message] = [record.getMessage() for record in caplog.records if record.name == "fedloru"]
    assert "the trained model cannot be exported as an adapter: PEFT refuses the adapter" in message
    assert "Choose other targets, or export the merged model instead, with the format merged" in message


def test_a_layer_that_peft_takes_for_experts_is_reported(tmp_path: Path) -> None:
    problem = adapter_problem(
        hf.attach(loaded("deepseek_v3", tmp_path / "base"), rank=2, targets=["*mlp.down_proj", "*.o_proj"])
    )
    assert problem is not None and "model.layers.0.mlp.down_proj.weight" in problem and "other targets" in problem


def test_a_model_from_memory_and_a_head_with_factors_are_reported(tmp_path: Path) -> None:
    assert "was created in memory" in str(adapter_problem(hf.attach(hf.prepare(tiny("llama")), rank=2)))
    model = loaded("distilbert", tmp_path / "base", task="classify", classes=home.CLASSES)
    net = hf.attach(model, rank=2, targets=["*.q_lin", "pre_classifier"])
    assert "pre_classifier is trained whole and also has factors" in str(adapter_problem(net))


def test_a_model_that_could_not_be_loaded_again_is_reported() -> None:
    """The text part of Mllama is saved as a type that AutoModelForCausalLM does not know."""
    assert "'mllama_text_model', which transformers could not load" in str(
        merged_problem(hf.attach(hf.prepare(tiny("mllama")), rank=2))
    )
    assert merged_problem(hf.attach(hf.prepare(tiny("llama")), rank=2)) is None


@pytest.mark.parametrize("own_head", [True, False])
def test_distilbert_whose_second_head_peft_wraps_by_its_name(own_head: bool, tmp_path: Path) -> None:
    """PEFT saves every module whose name ends in classifier, so also pre_classifier, trained or not."""
    families = script("families")
    tiny("distilbert", classes=3).save_pretrained(tmp_path / "base")
    classes = ("LABEL_0", "LABEL_1", "LABEL_2") if own_head else home.CLASSES
    net = hf.attach(hf.load(str(tmp_path / "base"), task="classify", classes=classes), rank=2)
    assert any("classifier" in key for key in net.trainable) is not own_head
    data = families.examples(net.model, "classify")
    dataset = fl.data.Dataset("random tokens", data, data, classes)
    run = families._run(net, dataset, fl.data.iid(dataset, clients=4), "sequential", tmp_path / "run")
    assert fl.export(run, tmp_path / "out", format="peft")["check"]["difference"] < 1e-4
    labels = {"num_labels": 3}
    import peft
    import transformers

    plain = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", **labels)
    model = peft.PeftModel.from_pretrained(plain, tmp_path / "out")
    expected = families.logits(run.model(), data)
    torch.testing.assert_close(families.logits(model, data), expected, rtol=1e-4, atol=1e-4)
