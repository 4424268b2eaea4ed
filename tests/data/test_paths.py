"""Files that data names: only in its folder, regular and bounded. Files that are not read are named."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedloru.data import Dataset, load, paths
from fedloru.errors import DataError
from tests.data.test_sources import encoded, table, write

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def named(folder: Path, names: list[str]) -> Dataset:
    images = pa.array([{"bytes": None, "path": name} for name in names], IMAGE)
    pq.write_table(pa.table({"image": images, "label": [row % 2 for row in range(len(names))]}), folder / "a.parquet")
    return load("parquet", path=str(folder / "a.parquet"), test_fraction=0.5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data/pics").mkdir(parents=True)
    for row in range(4):
        (tmp_path / f"data/pics/{row}.png").write_bytes(encoded(row))
    (tmp_path / "out.png").write_bytes(encoded(9))
    return tmp_path / "data"


def test_images_are_found_from_the_folder_of_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    relative = named(folder, [f"pics/{row}.png" for row in range(4)])
    absolute = named(folder, [str(folder / f"pics/{row}.png") for row in range(4)])
    assert relative.train["x"].shape == absolute.train["x"].shape == (2, 1, 6, 6)
    (folder / "pics/other.png").write_bytes(encoded(5))
    remarks = load("parquet", path=str(folder), test_fraction=0.5).remarks
    assert remarks == ("1 item not read (neither train*.parquet nor test*.parquet): pics/other.png",)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../out.png", "not in the data's folder"),
        ("pics/../../out.png", "not in the data's folder"),
        ("/dev/zero", "not in the data's folder"),
        ("OUT", "not in the data's folder"),
        ("pics", "pics is not a regular file"),
        ("pics/none.png", "does not exist"),
        ("a\0b", "names the file"),
        ("x" * 5000, "names the file"),
        ("", "row 3 has no value for 'image'"),
    ],
)
def test_other_files_are_refused(folder: Path, name: str, message: str) -> None:
    name = str(folder.parent / "out.png") if name == "OUT" else name
    with pytest.raises(DataError, match=message) as caught:
        named(folder, ["pics/0.png", "pics/1.png", "pics/2.png", name])
    assert "a.parquet, row 3" in str(caught.value) and len(str(caught.value)) < 1000


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs symbolic links and pipes")
def test_links_devices_and_pipes_are_refused(folder: Path) -> None:
    (folder / "pics/in.png").symlink_to("0.png")
    (folder / "pics/out.png").symlink_to(folder.parent / "out.png")
    (folder / "pics/zero.png").symlink_to("/dev/zero")
    (folder / "pics/loop.png").symlink_to("loop.png")
    os.mkfifo(folder / "pics/pipe.png")
    named(folder, ["pics/0.png", "pics/1.png", "pics/2.png", "pics/in.png"])
    for name in ("out", "zero", "loop", "pipe"):
        with pytest.raises(DataError, match=rf"row 3 names the file 'pics/{name}.png'"):
            named(folder, ["pics/0.png", "pics/1.png", "pics/2.png", f"pics/{name}.png"])


def test_large_files_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "MAX_NAMED", 10)
    with pytest.raises(DataError, match="at most 10 are read"):
        named(folder, ["pics/0.png"] * 4)


def test_unread_files_and_hidden_folders_are_named(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", table(9))
    write(tmp_path / "test.parquet", table(6))
    assert load("parquet", path=str(tmp_path)).remarks == ()
    for name in ("README.md", ".git/config", "more/a.gif", "validation.parquet", ".note"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (remark,) = load("parquet", path=str(tmp_path)).remarks
    assert remark.startswith("4 items not read") and remark.endswith(": .git, .note, more/a.gif, validation.parquet")
