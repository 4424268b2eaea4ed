"""Runs of language models from a configuration: the run, its folder, and resuming it."""

from __future__ import annotations

import json
import math
import re
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from fedloru import api, config, hf
from fedloru.config import Config, parse
from fedloru.errors import ConfigError, ModelError
from tests.hf.letters import LETTERS, letters, write
from tests.hf.tiny import FAMILIES

pytestmark = pytest.mark.hf


@pytest.fixture(params=["llama", "bert"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def configured(family: str, tmp_path: Path, **sections: dict[str, Any]) -> Config:
    """Return the configuration of four rounds with three clients, and write its model and texts."""
    import transformers

    folder = tmp_path / family
    if not folder.exists():
        transformers.utils.logging.disable_progress_bar()
        size = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
        small = type(FAMILIES[family](transformers).config)(vocab_size=3 + len(LETTERS), **size)
        kind = transformers.LlamaForCausalLM if family == "llama" else transformers.BertModel
        kind(small).save_pretrained(folder)
        letters(closed=family == "bert").save_pretrained(folder)
    lines = [f"{word} {word}" for word in ("ham", "spam", "eggs", "tea") for _ in range(6)]
    path = write(tmp_path / "texts.parquet", {"text": lines, "label": [line.split()[0] for line in lines]})
    kind = "plain" if family == "llama" else "classify"
    table: dict[str, Any] = {
        "rounds": 4,
        "data": {"source": "text", "path": path, "kind": kind, "max_length": 16},
        "partition": {"scheme": "iid", "clients": 3},
        "model": {"name": f"hf:{folder}"},
        "lowrank": {"rank": 2},
        "method": {"name": "fedloru", "tau": 2},
        "client": {"optimizer": "adamw", "lr": 0.02, "batch_size": 4},
        "cohort": {"size": 2},
        "output": {"dir": str(tmp_path / "run"), "checkpoint_every": 2},
    }
    for name, section in sections.items():
        table[name] = table.get(name, {}) | section
    if table["method"]["name"] == "fedavg":
        del table["method"]["tau"]
    return parse(table)


def test_a_run_trains_and_records_the_default_targets(family: str, tmp_path: Path) -> None:
    run = api.start(configured(family, tmp_path))
    rows = list(run)
    assert run.engine.name == "fused" and run.engine.reason.endswith("by fold")
    assert rows[-1]["test_loss"] != rows[0]["test_loss"]
    assert sum(row["bytes"]["down"]["first_download"] for row in rows) == 0
    if family == "llama":
        assert rows[-1]["test_loss"] < rows[0]["test_loss"]
        assert rows[0]["test_perplexity"] == pytest.approx(math.exp(rows[0]["test_loss"]))
        assert rows[0]["test_f1"] is None
    else:
        assert "test_perplexity" not in rows[0] and rows[-1]["test_f1"] > 0
    echo = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    names = ("q_proj", "v_proj") if family == "llama" else ("query", "value")
    assert [target.rpartition(".")[2] for target in echo["lowrank"]["targets"]] == list(names)
    assert not any(
        fnmatchcase(layer, target) for layer in run.plan.net.skipped for target in echo["lowrank"]["targets"]
    )
    assert echo["wire"]["first_download"] is False
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert ("final_perplexity" in summary) == (family == "llama")


def test_personal_scores_of_a_causal_model_have_a_perplexity(tmp_path: Path) -> None:
    sections = {"method": {"name": "pfedloru"}, "partition": {"test_fraction": 0.3}}
    row = list(api.start(configured("llama", tmp_path, **sections)))[-1]
    for spread in (row["personal"]["shared"], row["personal"]["personal"]):
        assert spread["perplexity"] == pytest.approx(math.exp(spread["loss"]))


def test_a_run_from_its_saved_configuration_and_a_resumed_run_are_equal(family: str, tmp_path: Path) -> None:
    first = [{**row, "seconds": 0} for row in api.start(configured(family, tmp_path))]
    echo = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    again = parse(echo | {"output": {"dir": str(tmp_path / "again"), "checkpoint_every": 2}})
    for row in api.start(again):
        if row["round"] == 3:
            break
    resumed = [{**row, "seconds": 0} for row in api.resume(tmp_path / "again", from_round=2)]
    assert resumed == first[2:]


def test_fedavg_trains_every_weight(tmp_path: Path) -> None:
    plan = config.plan(configured("llama", tmp_path, method={"name": "fedavg"}))
    assert plan.net.trainable == plan.net.params.keys() and not plan.net.sites


def test_settings_reach_the_model(tmp_path: Path) -> None:
    settings = {"dtype": "bfloat16", "attention": "eager", "checkpointing": True}
    plan = config.plan(configured("llama", tmp_path, model=settings, lowrank={"targets": ["*.up_proj"]}))
    model: Any = plan.net.model
    assert model.config._attn_implementation == "eager" and model.is_activation_checkpointing
    assert str(plan.net.params["lm_head.weight"].dtype) == "torch.bfloat16"
    assert {site.weight.split(".")[-2] for site in plan.net.sites} == {"up_proj"}


def test_heads_are_drawn_by_the_seed(tmp_path: Path) -> None:
    plans = [config.plan(configured("bert", tmp_path, model={"seed": seed})) for seed in (1, 1, 2)]
    first, again, other = (plan.net.params["classifier.weight"] for plan in plans)
    assert first.equal(again) and not first.equal(other)
    assert plans[0].net.model.config.id2label == {0: "eggs", 1: "ham", 2: "spam", 3: "tea"}  # type: ignore[union-attr]


def test_the_first_download_cannot_be_turned_on(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="frozen weights are never sent: remove"):
        configured("llama", tmp_path, wire={"first_download": True})


def test_a_revision_of_a_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is a folder, so it has no revision 'main'"):
        config.plan(configured("llama", tmp_path, model={"revision": "main"}))


def test_the_example_in_the_docstring_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    configured("bert", tmp_path)
    monkeypatch.chdir(tmp_path)
    _, _, lines = (hf.__doc__ or "").partition("::\n")
    code = "".join(line[4:] + "\n" for line in lines.splitlines() if line.startswith("    "))
    exec(compile(code, "the docstring", "exec"), {"folder": "bert"})
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["1", "2", "3"]


def test_the_configuration_in_the_docs_is_valid() -> None:
    page = Path(__file__).parents[2] / "docs" / "language-models.md"
    (block,) = re.findall(r"```toml\n(.*?)```", page.read_text(), re.DOTALL)
    assert parse(tomllib.loads(block)).model.name.startswith("hf:")
