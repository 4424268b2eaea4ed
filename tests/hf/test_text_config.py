"""Texts of a configuration are loaded with the tokenizer of its model, and audited."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from fedloru.cli import app
from fedloru.config import load
from fedloru.config.plan import split
from tests.hf.letters import letters, write

pytestmark = pytest.mark.hf


@pytest.fixture
def model(tmp_path: Path) -> Path:
    from transformers import LlamaConfig

    folder = tmp_path / "tiny"
    letters().save_pretrained(folder)
    LlamaConfig(max_position_embeddings=64).save_pretrained(folder)
    return folder


def audit(tmp_path: Path, model: Path | str, *changes: str) -> Result:
    path = write(tmp_path / "play.parquet", {"text": ["to be " * n for n in range(6)], "who": ["Ann", "Bob"] * 3})
    file = tmp_path / "play.toml"
    file.write_text(
        f"data = {{source = 'text', kind = 'plain', path = '{path}', columns = ['who'], max_length = 64}}\n"
        f"partition = {{scheme = 'natural', key = 'who'}}\nmodel = {{name = 'hf:{model}'}}\ncohort = {{size = 1}}"
    )
    return CliRunner().invoke(app, ["audit", str(file), *(word for change in changes for word in ("-s", change))])


def test_an_audit_shows_tokens_and_skipped_texts(tmp_path: Path, model: Path) -> None:
    result = audit(tmp_path, model, "data.max_length=11")
    assert result.exit_code == 0, result.stderr
    facts = dict(re.findall(r"^(.+?) {2,}(.+?) *$", result.stdout, re.MULTILINE))
    assert facts["clients"] == "2" and facts["empty texts"] == "1" and "label skew" not in facts
    least, most = (int(number) for number in facts["tokens per client"].split(",")[0].split(" to "))
    assert int(facts["tokens"]) + int(facts["tokens cut"]) == sum(6 * n + 2 for n in range(1, 6)) > least + most
    assert "Note: play: 1 empty text was skipped" in result.stderr
    rows = {
        name: [int(number) for number in row]
        for name, *row in re.findall(r"^ *(Ann|Bob) +(\d+) +(\d+) *$", result.stdout, re.M)
    }
    assert sorted(tokens for _, tokens in rows.values()) == [least, most]
    assert sum(examples for examples, _ in rows.values()) == int(facts["training examples"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("data.max_length=65", "expected 2 to 64, the limit of the model"),
        ("data.text=txet", "no column 'txet'; did you mean 'text'"),
        ("data.kind=instruct", "no column 'response'"),
        ("data.path=nowhere.parquet", "there is no file or folder nowhere.parquet"),
    ],
)
def test_invalid_input_is_reported_before_training(change: str, message: str, tmp_path: Path, model: Path) -> None:
    result = audit(tmp_path, model, change)
    assert result.exit_code == 2 and message in result.stderr and result.stderr.startswith("Error: ")


@pytest.mark.parametrize("named", [False, True])
def test_texts_of_one_file_per_site(named: bool, tmp_path: Path, model: Path) -> None:
    folder = tmp_path / "sites"
    folder.mkdir()
    for name, rows in (("berlin", 4), ("paris", 5), ("zürich", 6)):
        lines = [json.dumps({"text": f"to be {name.encode().hex()[:2]} " * (n + 1)}) for n in range(rows)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    paths = f"{{Rome = '{folder}/paris.jsonl', Oslo = '{folder}/berlin.jsonl'}}" if named else f"'{folder}'"
    file = tmp_path / "sites.toml"
    file.write_text(
        f"data = {{source = 'text', kind = 'plain', path = {paths}, max_length = 64, test_fraction = 0.3}}\n"
        f"partition = {{scheme = 'natural', key = 'file'}}\nmodel = {{name = 'hf:{model}'}}\ncohort = {{size = 1}}",
        encoding="utf-8",
    )
    made = split(load(file))[1]
    assert made.names == (("Oslo", "Rome") if named else ("berlin", "paris", "zürich"))
    assert [len(rows) for rows in made.train] == ([3, 3] if named else [3, 3, 4])


def test_a_site_whose_texts_cannot_be_used_is_named(tmp_path: Path, model: Path) -> None:
    folder = tmp_path / "sites"
    folder.mkdir()
    for name, key in (("berlin", "text"), ("paris", "texte"), ("rome", "text")):
        (folder / f"{name}.jsonl").write_text(json.dumps({key: "to be or not"}) + "\n")
    result = audit(tmp_path, model, "partition.key=file", "data.columns=['file']", f"data.path={folder}")
    assert result.exit_code == 2 and "sites: no text of 'paris' can be used" in result.stderr
