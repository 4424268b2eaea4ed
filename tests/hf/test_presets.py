"""The presets and examples of language models train; here with tiny models and short texts."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from fedloru import api
from fedloru.config import load
from fedloru.errors import ConfigError
from tests.hf.letters import CHAT, LETTERS, letters, write

EXAMPLES = Path(__file__).parents[2] / "examples"
SEED_TASKS, DOLLY = ["instruction", "input", "output"], ["instruction", "context", "response", "category"]
NAMES = ["dolly", "sst2", "stories"]

pytestmark = pytest.mark.hf


def model(folder: Path, kind: str) -> str:
    """Save a tiny model with a character tokenizer, and return its folder."""
    import transformers

    size = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    made: Any = transformers.LlamaForCausalLM if kind == "llama" else transformers.BertModel
    made(made.config_class(vocab_size=3 + len(LETTERS), **size)).save_pretrained(folder)
    letters(closed=kind == "bert", chat_template=CHAT).save_pretrained(folder)
    return str(folder)


def arguments(name: str, folder: Path) -> list[str]:
    """Return the arguments of an example: a model, texts, and for dolly a run folder."""
    if name == "sst2":
        lines = [f"{word} {n}" for n in range(100) for word in ("bad", "good")]
        labels = [n % 2 for n in range(200)]
        paths = [write(folder / f"{part}.parquet", {"text": lines, "label": labels}) for part in ("train", "test")]
        return [model(folder / "bert", "bert"), *paths]
    columns = SEED_TASKS if name == "stories" else DOLLY
    count = 80 if name == "stories" else 800
    rows = {column: [f"{column} {n}" for n in range(count)] for column in columns}
    rows["category"] = [f"kind {n % 8}" for n in range(count)]
    path = write(folder / "instructions.parquet", {column: rows[column] for column in columns})
    return [model(folder / "llama", "llama"), path] + ([str(folder / "run")] if name == "dolly" else [])


@pytest.mark.parametrize("name", NAMES)
def test_an_example_trains(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [name, *arguments(name, tmp_path)])
    runpy.run_path(str(EXAMPLES / f"{name}.py"))
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("round")]
    assert len(lines) == {"dolly": 6, "sst2": 30, "stories": 10}[name]
    measured = lines[-1].index("accuracy" if name == "sst2" else "perplexity") + 1
    first = next(line for line in lines if len(line) > measured)
    better = 1 if name == "sst2" else -1
    assert better * float(lines[-1][measured]) >= better * float(first[measured])


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_trains(name: str, tmp_path: Path) -> None:
    given = dict(zip(("model.name", "data.path", "data.test"), arguments(name, tmp_path), strict=False))
    given["model.name"] = f"hf:{given['model.name']}"
    if name != "sst2":
        given.pop("data.test", None)
    given |= {"output.dir": str(tmp_path / "out"), "rounds": "2", "partition.min_examples": "1", "client.steps": "2"}
    rows = list(api.start(load(name, [f"{key}={value}" for key, value in given.items()])))
    assert rows[-1]["round"] == 2 and rows[-1]["test_loss"] > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_without_paths_names_the_missing_settings(name: str) -> None:
    with pytest.raises(ConfigError, match=r"(?s)data\.path is missing.*model\.name is 'hf:', expected 'hf:FOLDER'"):
        load(name)
