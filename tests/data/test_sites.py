"""One file per site: folders of files and tables from names to files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedloru.config import load as load_config
from fedloru.config import plan
from fedloru.data import load, natural
from fedloru.errors import ConfigError, DataError


def site(path: Path, rows: int = 6, **more: Any) -> Path:
    lines = [json.dumps({"a": row % 4 * 1.5, "label": row % 2} | more) for row in range(rows)]
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def test_a_folder_of_files_makes_one_client_per_file(tmp_path: Path) -> None:
    site(tmp_path / "sites/berlin.jsonl", 10), site(tmp_path / "sites/zürich.jsonl"), site(tmp_path / "sites/.x.json")
    site(tmp_path / "sites/oslo.json", 4)
    (tmp_path / "sites/notes.md").write_text("hello")
    data = load("table", path=str(tmp_path / "sites"), columns=["file"])
    made = natural(data, "file")
    assert made.names == ("berlin", "oslo", "zürich") and data.name == "sites"
    assert [len(rows) for rows in made.train] == [8, 4, 4] and len(data.test["y"]) == 4
    assert "notes.md" in data.remarks[0] and data.encoding is not None and data.encoding.names == ("a",)


def test_names_are_given_in_the_configuration(tmp_path: Path) -> None:
    north, south = site(tmp_path / "a.jsonl"), site(tmp_path / "b.jsonl")
    text = f"""
    rounds = 1
    [data]
    source = "csv"
    path = {{"North Sea" = '{north}', "süd" = '{south}'}}
    [partition]
    scheme = "natural"
    key = "file"
    [model]
    name = "mlp"
    [method]
    name = "fedavg"
    [cohort]
    size = 2
    """
    (tmp_path / "c.toml").write_text(text, encoding="utf-8")
    made = plan(load_config(tmp_path / "c.toml"))
    assert made.partition.names == ("North Sea", "süd") and made.dataset.columns["file"][0] == "North Sea"


def test_train_and_test_files_are_one_data_set(tmp_path: Path) -> None:
    site(tmp_path / "d/train.jsonl", 8), site(tmp_path / "d/test.jsonl", 4)
    data = load("table", path=str(tmp_path / "d"))
    assert len(data.train["y"]) == 8 and len(data.test["y"]) == 4


def test_a_single_file_is_one_site(tmp_path: Path) -> None:
    data = load("table", path=str(site(tmp_path / "rome.jsonl")), columns=["file"])
    assert natural(data, "file").names == ("rome",)


def test_bad_sites_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    site(folder / "berlin.jsonl"), (folder / "berlin.csv").write_text("a,label\n1,0\n")
    with pytest.raises(DataError, match=r"berlin.csv and .*berlin.jsonl would both be the site 'berlin'"):
        load("table", path=str(folder))
    (folder / "berlin.csv").write_text("a,label\n")
    (folder / "berlin.csv").rename(folder / "paris.csv")
    with pytest.raises(DataError, match=r"paris.csv has no rows: add some"):
        load("table", path=str(folder))
    (folder / "paris.csv").write_text("b,label\n1,0\n2,1\n")
    with pytest.raises(DataError, match=r"do not have the same columns, but differ in 'a', 'b'"):
        load("table", path=str(folder))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no file of a site"):
        load("table", path=str(tmp_path / "empty"))
    with pytest.raises(DataError, match=r"no file nowhere.csv for the site 'rome'"):
        load("table", path={"rome": "nowhere.csv"})
    for path in ({}, {"rome": ""}, ""):
        with pytest.raises(DataError, match="expected a string, or a table from names of sites to files"):
            load("table", path=path)
    with pytest.raises(DataError, match="empty name"):
        load("table", path={" ": str(folder / "paris.csv")})


def test_a_site_in_the_configuration_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('[data]\nsource = "csv"\npath = {rome = 1}\n')
    with pytest.raises(ConfigError, match=r"data.path is .*expected a string, or a table from names of sites"):
        load_config(tmp_path / "c.toml")
