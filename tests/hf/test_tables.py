"""Tables of texts: files and folders of JSON, CSV and parquet, with the types of their values."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedloru import hf
from fedloru.data import Dataset, natural
from fedloru.errors import ConfigError, DataError
from fedloru.hf.encode import Classify, Instruct, Plain
from fedloru.hf.text import load
from tests.hf.letters import letters

pytestmark = pytest.mark.hf

FIRST = 18446744073709550000
ROWS = [
    {"prompt": f"when was event {n}?", "response": f"2021-{n % 12 + 1:02d}-01", "user": FIRST + n % 10 * 3}
    for n in range(40)
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def loaded(path: Path, kind: Any, **settings: Any) -> Dataset:
    return load(letters(), str(path), kind, **{"test_fraction": 0.2, "max_length": 250, **settings})


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".parquet":
        table = pa.Table.from_pylist(rows)
        coded = [column.dictionary_encode() for column in table.columns]
        pq.write_table(pa.table(coded, names=table.column_names), path)
    else:
        path.write_text(json.dumps(rows, indent=2) if path.suffix == ".json" else "\n".join(map(json.dumps, rows)))
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet", "set/train.jsonl", "set/train.csv"])
def test_large_ids_and_dates_keep_their_types(tmp_path: Path, name: str) -> None:
    rows = [row | {"user": str(row["user"])} if name.endswith(".parquet") else row for row in ROWS]
    path = write(tmp_path / name, rows)
    data = loaded(path.parent if path.parent.name == "set" else path, Instruct(), columns=["user"])
    assert len(natural(data, "user").train) == 10
    assert set(data.columns["user"]) == {str(FIRST + 3 * n) for n in range(10)}
    dates = load(letters(), str(path), Classify("prompt", "response"), max_length=250)
    assert dates.classes == tuple(sorted({row["response"] for row in ROWS}))


def test_types_that_differ_between_the_files_of_a_folder_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "set/train-0.jsonl", [{"text": "a", "user": 1}] * 4)
    write(tmp_path / "set/train-1.jsonl", [{"text": "a", "user": "1"}] * 4)
    with pytest.raises(DataError, match=r"train-0\.jsonl, row 0 \(line 1\) has 1 .*train-1\.jsonl, row 0 .* has '1'"):
        loaded(tmp_path / "set", Plain(), columns=["user"])


def test_a_csv_of_a_folder_keeps_its_texts(tmp_path: Path) -> None:
    write(tmp_path / "set/train.csv", [{"text": "a", "user": user} for user in ("NA", "0123", "123", "1e2", "100") * 3])
    data = loaded(tmp_path / "set", Plain(), columns=["user"])
    assert set(data.columns["user"]) == {"NA", "0123", "123", "1e2", "100"}
    assert any("'NA' in" in remark for remark in data.remarks)


def test_settings_of_csv_files_are_followed_or_refused(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set/train.csv").write_text("text;user\n" + "a;01\n" * 5)
    card = "---\nconfigs:\n- config_name: default\n  data_files: train.csv\n  {}\n---\n"
    (tmp_path / "set/README.md").write_text(card.format("sep: ';'"))
    assert loaded(tmp_path / "set", Plain(), columns=["user"]).columns["user"] == ("01",) * 4
    (tmp_path / "set/README.md").write_text(card.format("skiprows: 1"))
    with pytest.raises(DataError, match="sets skiprows for its CSV files"):
        loaded(tmp_path / "set", Plain())


def test_what_a_folder_leaves_unread_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for part in ("train", "validation"):
        write(tmp_path / f"set/{part}.jsonl", ROWS)
    (tmp_path / "set/notes.txt").write_text("")
    with caplog.at_level(logging.WARNING, "fedloru"):
        data = loaded(tmp_path / "set", Instruct())
    split, file = data.remarks
    assert split.startswith("1 split not read") and split.endswith(": validation")
    assert file == "1 item not read (part of no split): notes.txt"
    assert [message for message in caplog.messages if "not read" in message] == [split, file]


def test_numbers_of_class_labels_become_their_names(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["1", "0"])})
    made = datasets.Dataset.from_dict({"text": ["a", "b"] * 5, "label": [0, 1] * 5}, features=features)
    (tmp_path / "set").mkdir()
    made.to_parquet(tmp_path / "set/train.parquet")
    data = loaded(tmp_path / "set", Classify())
    assert data.classes == ("1", "0") and data.remarks == ()
    texts = [letters().decode(ids, skip_special_tokens=True)[0] for ids in data.train["input_ids"]]
    assert [("a", "b")[y] for y in data.train["y"].tolist()] == texts


def test_positions_of_classes_are_remarked(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", [{"text": "a", "label": n % 2} for n in range(10)])
    data = loaded(path, Classify(labels=("no", "yes")))
    assert data.remarks == ("a: labels are read as positions in the class names: 0 is 'no', 1 is 'yes'",)


@pytest.mark.parametrize("classes", [3, "ab", {"a": 0}])
def test_classes_of_a_model_are_a_list(classes: Any) -> None:
    with pytest.raises(ConfigError, match="expected a list of the names of the classes"):
        hf.load("nowhere", task="classify", classes=classes)
