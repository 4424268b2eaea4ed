"""``fedloru init``: it looks at data, asks or takes flags, and writes a configuration that runs."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest

from fedloru.cli import init
from fedloru.cli.looks import around, look
from fedloru.config import load
from tests.cli.conftest import Cli


def hospitals(folder: Path) -> None:
    """Write a table for each of three sites, with missing values."""
    draw = random.Random(0)
    folder.mkdir()
    for site in ("berlin", "paris", "rome"):
        rows = [f"{draw.randint(30, 80)},{draw.choice('MF')},{draw.choice(['?', '240'])}" for _ in range(40)]
        table = "\n".join(f"{row},{int(row[:2] > '55')}" for row in rows)
        (folder / f"{site}.csv").write_text(f"age,sex,chol,disease\n{table}\n")


def test_sites_with_a_table_each_become_a_run(cli: Cli) -> None:
    hospitals(Path("hospitals"))
    assert "Written: fedloru.toml" in cli("init").stdout
    config = load("fedloru.toml")
    assert (config.data.source, config.data.label, config.data.missing, config.data.na) == (
        "csv",
        "disease",
        "median",
        ["?"],
    )
    assert (config.partition.scheme, config.partition.key, config.cohort.size) == ("natural", "file", 3)
    result = json.loads(cli("run", "fedloru.toml", "-s", "rounds=1", "-q", "--json").stdout)
    assert result["summary"]["clients"] == 3


def test_a_column_that_is_called_like_a_client_becomes_the_clients(cli: Cli) -> None:
    hospitals(Path("hospitals"))
    rows = [
        f"{row},{site.stem}"
        for site in sorted(Path("hospitals").iterdir())
        for row in site.read_text().splitlines()[1:]
    ]
    Path("heart.csv").write_text("\n".join(["age,sex,chol,disease,Hospital", *rows]))
    cli("init", "--path", "heart.csv")
    config = load("fedloru.toml")
    assert (config.partition.scheme, config.partition.key, config.cohort.size) == ("natural", "Hospital", 3)
    Path("few.csv").write_text("\n".join(["age,person,label", *(f"{n},{n},{n % 2}" for n in range(20))]))
    cli("init", "few.toml", "--path", "few.csv")
    assert load("few.toml").partition.scheme == "iid"


def test_dates_and_identifiers_are_no_features(cli: Cli) -> None:
    rows = [f"{n},P{n},2024-01-{n % 28 + 1},{n * 7 % 50},{n % 2}" for n in range(40)]
    Path("heart.csv").write_text("\n".join(["id,patient,admitted,age,sick", *rows]))
    cli("init", "--path", "heart.csv", "--clients", "2")
    config = load("fedloru.toml")
    assert config.data.label == "sick" and config.data.features == ["age"]
    Path("sites").mkdir()
    for site in ("kiel", "ulm"):
        Path(f"sites/{site}.csv").write_text("\n".join(["id,age,sick", *(f"{n},{n % 9},{n % 2}" for n in range(30))]))
    cli("init", "sites.toml", "--path", "sites")
    assert load("sites.toml").data.features == ["age"]
    Path("usable.csv").write_text("\n".join(["id,age,label", *(f"{n % 5},{n},{n % 2}" for n in range(40))]))
    cli("init", "usable.toml", "--path", "usable.csv")
    assert "features" not in Path("usable.toml").read_text()


def test_two_classes_are_measured_by_auc(cli: Cli) -> None:
    hospitals(Path("hospitals"))
    cli("init")
    assert load("fedloru.toml").eval.metrics == ["auc"]
    result = json.loads(cli("run", "fedloru.toml", "-s", "rounds=1", "-q", "--json").stdout)
    assert 0 <= result["summary"]["final_auc"] <= 1
    Path("three.csv").write_text("\n".join(["age,kind", *(f"{n},{'abc'[n % 3]}" for n in range(30))]))
    cli("init", "three.toml", "--path", "three.csv")
    assert not load("three.toml").eval.metrics


def test_flags_answer_the_questions(cli: Cli) -> None:
    flags = ("--data", "built-in", "--path", "mnist5k", "--model", "mlp", "--clients", "7", "--method", "fedavg")
    cli("init", "mine.toml", *flags)
    config = load("mine.toml")
    assert (config.data.source, config.model.name, config.method.name) == ("mnist5k", "mlp", "fedavg")
    assert (config.partition.clients, config.cohort.size) == (7, 7)


def test_a_language_model_reads_columns_of_any_name_as_texts(cli: Cli) -> None:
    Path("fragen.jsonl").write_text(json.dumps({"frage": "Was ist 2 + 2?", "antwort": "4"}) + "\n")
    cli("init", "mine.toml", "--path", "fragen.jsonl", "--model", "hf:tiny")
    assert (load("mine.toml").data.source, load("mine.toml").model.name) == ("text", "hf:tiny")


def test_texts_for_missing_values_are_found_in_any_case(cli: Cli) -> None:
    rows = [f"{('n/a', 'NULL', 'Nan', '3')[n % 4]},{('none', 'some')[n % 2]},{n % 2}" for n in range(20)]
    Path("lab.csv").write_text("\n".join(["chol,pain,label", *rows]))
    cli("init", "mine.toml", "--path", "lab.csv")
    assert load("mine.toml").data.na == ["NULL", "Nan", "n/a"]


def test_the_settings_in_comments_are_the_defaults(cli: Cli) -> None:
    cli("init", "--data", "built-in")
    written = Path("fedloru.toml").read_text()
    Path("all.toml").write_text(re.sub(r"^# (\w+ = )", r"\1", written, flags=re.MULTILINE))
    both = [load(name)._replace(output=None) for name in ("fedloru.toml", "all.toml")]  # type: ignore[arg-type]
    assert both[0] == both[1] and Path("all.toml").read_text() != written


def test_an_existing_file_is_not_overwritten(cli: Cli) -> None:
    Path("fedloru.toml").write_text("mine")
    assert "exists already" in cli("init", code=2).stderr
    assert Path("fedloru.toml").read_text() == "mine"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--data", "sounds"), "expected 'built-in', 'images', 'table' or 'text'"),
        (("--data", "hospitals"), "or 'text'; name a file or folder with --path hospitals"),
        (("--data", "built-in", "--path", "cifar"), "there is no built-in data set 'cifar'"),
        (("--data", "table", "--path", "nothing"), "there is no file or folder nothing"),
        (("--data", "text", "--path", "hospitals"), "hospitals holds data of the kind table, and not text"),
        (("--clients", "doctor"), "the clients are 'doctor', expected a number"),
        (("--clients", "0"), "the clients are '0'"),
        (("--model", "gpt"), "model.name is 'gpt'"),
        (("--method", "fedfoo"), "fedfoo"),
    ],
)
def test_wrong_answers_write_nothing(cli: Cli, flags: tuple[str, ...], message: str) -> None:
    hospitals(Path("hospitals"))
    assert message in " ".join(cli("init", *flags, code=2).stderr.split())
    assert not Path("fedloru.toml").exists()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("nested.jsonl", '{"x": [1, 2], "label": 1}\n{"x": {"a": null}, "label": 0}\n'),
        ("surplus.csv", "a,b,label\n1,2,0,9\n3,4,1\n"),
        ("nameless.jsonl", "{}\n"),
        ("binary.parquet", "PAR1"),
    ],
)
def test_any_file_nearby_is_looked_at_without_an_error(cli: Cli, name: str, text: str) -> None:
    Path(name).write_text(text)
    cli("init")
    assert load("fedloru.toml").data.source in ("csv", "digits")
    refused = cli("init", "other.toml", "--data", "images", "--path", name, code=2).stderr
    assert name in refused and "did not expect" not in refused


def test_clients_are_a_column_whose_values_can_identify_them(cli: Cli) -> None:
    Path("scans.jsonl").write_text('{"x": [1, 2], "age": 1.5, "label": 1}\n{"x": [3, 4], "age": null, "label": 0}\n')
    for column in ("x", "age"):
        flags = ("--data", "table", "--path", "scans.jsonl", "--clients", column)
        assert f"'{column}'" in cli("init", *flags, code=2).stderr and not Path("fedloru.toml").exists()


def test_the_place_of_the_file_is_checked_before_any_question(cli: Cli) -> None:
    refused = cli("init", "no/where.toml", "--method", "fedfoo", code=2).stderr
    assert "no/where.toml is in a folder that does not exist" in refused


def test_questions_are_asked_again_after_a_wrong_answer(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    hospitals(Path("hospitals"))
    answers = iter(["table", "nowhere", "hospitals", "mlp", "sex", "fedlora"])
    asked: list[tuple[str, object]] = []

    def prompt(question: str, default: object, err: bool) -> str:
        asked.append((question, default))
        return next(answers)

    monkeypatch.setattr(init, "is_interactive", lambda: True)
    monkeypatch.setattr("typer.prompt", prompt)
    assert "there is no file or folder nowhere" in cli("init").stderr
    assert [default for _, default in asked] == ["table", "hospitals", "hospitals", "mlp", "file", "fedloru"]
    config = load("fedloru.toml")
    assert (config.partition.key, config.cohort.size, config.method.name) == ("sex", 2, "fedlora")


def test_what_is_found(tmp_path: Path) -> None:
    def written(name: str, *rows: dict[str, object]) -> Path:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path / name

    chat = look(written("chat.jsonl", {"messages": []}))
    pairs = look(written("pairs.jsonl", {"instruction": "a", "output": "b"}))
    texts = look(written("texts.jsonl", {"text": "word " * 20, "label": "good"}))
    plain = look(written("plain.jsonl", {"body": "word " * 20}))
    assert chat and pairs and texts and plain
    assert (chat.kind, chat.data["kind"]) == ("text", "instruct")
    assert (pairs.data["prompt"], pairs.data["response"]) == ("instruction", "output")
    assert (texts.data["kind"], texts.data["label"]) == ("classify", "label")
    assert (plain.data["kind"], plain.data["text"]) == ("plain", "body")
    only = look(written("only.jsonl", {"line": "to be or"}, {"line": "not to be"}))
    short = look(written("short.jsonl", {"text": "see you at noon", "label": 0}))
    colors = written("colors.jsonl", {"color": "dark red", "label": 0})
    assert only and short and (only.kind, only.data["text"]) == ("text", "line")
    assert (short.data["kind"], short.data["text"], short.data["label"]) == ("classify", "text", "label")
    named = [look(colors), look(colors, "text"), look(tmp_path / "texts.jsonl", "table")]
    assert [found and found.kind for found in named] == ["table", "text", "table"]
    (tmp_path / "pictures" / "cat").mkdir(parents=True)
    (tmp_path / "pictures" / "cat" / "1.png").touch()
    pictures = look(tmp_path / "pictures")
    assert pictures and (pictures.kind, pictures.data["source"]) == ("images", "folder")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.jsonl").write_text("{")
    assert around(tmp_path / "broken") is None and look(tmp_path / "none.bin") is None
