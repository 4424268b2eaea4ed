from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from fedloru.data import Dataset, load, synthetic
from fedloru.errors import DataError


def encoded(row: int, size: int = 6, mode: str = "L", kind: str = "png") -> bytes:
    shape = (size, size) if mode in ("L", "I;16") else (size, size, 3)
    pixels = np.random.default_rng(row).integers(0, 256, shape, np.uint16 if mode == "I;16" else np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def table(rows: int, classes: int = 3, **changes: object) -> pa.Table:
    columns = {
        "image": [encoded(row) for row in range(rows)],
        "label": [row % classes for row in range(rows)],
        "speaker": [row // 4 for row in range(rows)],
    }
    return pa.table(columns | changes)


def write(path: Path, content: pa.Table, classes: object = None) -> None:
    if classes is not None:
        content = content.replace_schema_metadata({"classes": json.dumps(classes)})
    pq.write_table(content, path)


def same(x: Dataset, y: Dataset) -> bool:
    pairs = [(x.train, y.train), (x.test, y.test)]
    return x.classes == y.classes and all(torch.equal(a[k], b[k]) for a, b in pairs for k in a)


@pytest.mark.parametrize(("source", "shape", "rows"), [("mnist5k", (1, 28, 28), 5000), ("digits", (1, 8, 8), 1797)])
def test_embedded_digits(source: str, shape: tuple[int, ...], rows: int) -> None:
    data = load(source)
    assert data.name == source and data.classes == tuple("0123456789")
    assert data.train["x"].shape[1:] == shape and data.train["x"].dtype == torch.float32
    assert data.train["y"].dtype == torch.int64 and len(data.train["y"]) + len(data.test["y"]) == rows
    held = torch.bincount(data.test["y"]) / torch.bincount(torch.cat([data.train["y"], data.test["y"]]))
    assert (held - 0.2).abs().max() < 0.01
    assert abs(data.train["x"].mean()) < 1e-4 and abs(data.train["x"].std() - 1) < 1e-4


def test_the_seed_determines_the_held_out_examples() -> None:
    data, again, other = (load("digits", seed=seed, test_fraction=0.1) for seed in (1, 1, 2))
    assert same(data, again) and not torch.equal(data.test["x"], other.test["x"])


def test_parquet_pair_in_a_folder(tmp_path: Path) -> None:
    write(tmp_path / "train-0.parquet", table(9), ["ant", "bee", "cat"])
    write(tmp_path / "train-1.parquet", table(3), ["ant", "bee", "cat"])
    write(tmp_path / "test.parquet", table(6))
    data = load("parquet", path=str(tmp_path), columns=["speaker"])
    assert data.train["x"].shape == (12, 1, 6, 6) and len(data.test["y"]) == 6
    assert data.classes == ("ant", "bee", "cat") and data.columns["speaker"][8] == "2"
    assert data.test_columns == {"speaker": data.columns["speaker"][:6]}
    pixels = torch.stack([torch.from_numpy(np.array(Image.open(io.BytesIO(encoded(r))))) for r in [*range(9), 0, 1, 2]])
    want = (pixels / 255 - (pixels / 255).mean()) / (pixels / 255).std(correction=0)
    assert torch.allclose(data.train["x"].squeeze(1), want, atol=1e-5)


def test_parquet_by_prefix_and_single_file(tmp_path: Path) -> None:
    write(tmp_path / "pets_train.parquet", table(9))
    write(tmp_path / "pets_test.parquet", table(3))
    by_folder = load("parquet", path=str(tmp_path))
    write(tmp_path / "more_train.parquet", table(3))
    by_name = load("parquet", path=str(tmp_path / "pets"))
    assert same(by_folder, by_name) and by_name.name == "pets" and by_name.classes == ("0", "1", "2")
    alone = load("parquet", path=str(tmp_path / "pets_train.parquet"), test_fraction=0.34)
    assert (len(alone.train["y"]), len(alone.test["y"])) == (6, 3)
    with pytest.raises(DataError, match=r"more_train.*pets_test.*pets_train.*; set data.path to one"):
        load("parquet", path=str(tmp_path))


def test_columns_follow_the_training_rows(tmp_path: Path) -> None:
    content = table(30)
    write(tmp_path / "all.parquet", content.append_column("row", pa.array(range(30))))
    data = load("parquet", path=str(tmp_path / "all.parquet"), columns=["row"])
    rows = [int(row) for row in data.columns["row"]]
    assert [row % 3 for row in rows] == data.train["y"].tolist()


def test_struct_images_string_labels_and_color(tmp_path: Path) -> None:
    images = [{"bytes": encoded(row, mode="RGB" if row else "L", kind="jpeg"), "path": None} for row in range(8)]
    write(tmp_path / "a.parquet", pa.table({"picture": images, "kind": ["x", "y"] * 4}))
    data = load("parquet", path=str(tmp_path), image="picture", label="kind", test_fraction=0.25)
    assert data.train["x"].shape == (6, 3, 6, 6) and data.classes == ("x", "y")


@pytest.mark.parametrize(
    ("content", "classes", "message"),
    [
        (table(4).rename_columns(["imgae", "label", "speaker"]), None, "did you mean 'imgae'"),
        (table(4).drop_columns("label"), None, "no column 'label'. There are: image, speaker"),
        (table(4, image=[1, 2, 3, 4]), None, "to hold encoded images"),
        (table(4, label=[0, None, 1, 1]), None, "1 of 4 rows have no 'label'"),
        (table(4, label=[0.0, 1.0, 0.0, 1.0]), None, "without decimal places, such as 0.0"),
        (table(4, image=[b"abc"] * 4), None, "row 0 cannot be read as an image"),
        (table(4, image=[encoded(0)[:60]] * 4), None, "row 0 is damaged"),
        (table(2, image=[encoded(0), encoded(1, size=5)]), None, "row 1 is 5×5 pixels, but .*row 0 is 6×6"),
        (table(2, image=[encoded(0, mode="I;16")] * 2), None, "8 bits per channel"),
        (table(9), ["a", "b"], "not among its 2 classes: 2;"),
        (table(4), "ab", "not a JSON list"),
        (table(4).slice(0, 0), None, "no images"),
        (table(3), None, "holds out none of 3 examples, since the largest class has 1.*'regression'"),
    ],
)
def test_malformed_parquet_is_rejected(tmp_path: Path, content: pa.Table, classes: object, message: str) -> None:
    write(tmp_path / "a.parquet", content, classes)
    with pytest.raises(DataError, match=message):
        load("parquet", path=str(tmp_path / "a.parquet"))


def test_test_sets_must_match_the_training_set(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", table(9, classes=2))
    write(tmp_path / "test.parquet", table(9, classes=3))
    with pytest.raises(DataError, match="test labels that no training example has: 2;"):
        load("parquet", path=str(tmp_path))
    write(tmp_path / "test.parquet", table(2, image=[encoded(0, size=5)] * 2))
    with pytest.raises(DataError, match=r"shape \(1, 6, 6\), but test examples have shape \(1, 5, 5\)"):
        load("parquet", path=str(tmp_path))
    write(tmp_path / "train-1.parquet", table(3).rename_columns(["a", "b", "c"]))
    with pytest.raises(DataError, match="do not have the same columns"):
        load("parquet", path=str(tmp_path))
    (tmp_path / "test.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="not a readable parquet file"):
        load("parquet", path=str(tmp_path / "test.parquet"))


def images(place: Path, rows: int, size: int = 6) -> None:
    for row in range(rows):
        file = place / ("cat", "dog")[row % 2] / f"{row}.{('png', 'jpg')[row % 2]}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(row, size, kind=("png", "jpeg")[row % 2]))


def test_folder_with_and_without_a_test_set(tmp_path: Path) -> None:
    images(tmp_path / "plain", 10)
    data = load("folder", path=str(tmp_path / "plain"))
    assert data.classes == ("cat", "dog") and (len(data.train["y"]), len(data.test["y"])) == (8, 2)
    images(tmp_path / "pair" / "train", 6)
    images(tmp_path / "pair" / "test", 4)
    data = load("folder", path=str(tmp_path / "pair"))
    assert (len(data.train["y"]), len(data.test["y"])) == (6, 4)
    images(tmp_path / "half" / "train", 10)
    assert len(load("folder", path=str(tmp_path / "half")).test["y"]) == 2


def test_invalid_folders_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="contains no images"):
        load("folder", path=str(tmp_path))
    with pytest.raises(DataError, match="there is no folder"):
        load("folder", path=str(tmp_path / "none"))
    images(tmp_path, 4)
    (tmp_path / "dog" / "9.png").write_bytes(encoded(9, size=7))
    with pytest.raises(DataError, match=r"9\.png is 7×7 pixels, but .*0\.png is 6×6"):
        load("folder", path=str(tmp_path))


def test_hub_layout_in_a_local_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "ants").mkdir()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "bee"])})
    for part, rows in (("train", 8), ("test", 4)):
        content = {"image": [{"bytes": encoded(r), "path": None} for r in range(rows)], "label": [0, 1] * (rows // 2)}
        made = datasets.Dataset.from_dict(content, features=features)
        write(tmp_path / "ants" / f"{part}.parquet", made.with_format("arrow")[:])
    data = load("hub", path=str(tmp_path / "ants"))
    assert data.train["x"].shape == (8, 1, 6, 6) and len(data.test["y"]) == 4 and data.classes == ("ant", "bee")
    with pytest.raises(DataError, match="no column 'imgae'"):
        load("hub", path=str(tmp_path / "ants"), image="imgae")
    with pytest.raises(DataError, match="cannot be loaded"):
        load("hub", path=str(tmp_path / "none"))


def test_invalid_source_arguments_are_rejected() -> None:
    for arguments, message in (
        ({"source": "mnist"}, "did you mean 'mnist5k'"),
        ({"source": "parquet"}, "needs path: set data.path"),
        ({"source": "digits", "path": "x"}, "no setting .path."),
        ({"source": "digits", "columns": ["x"]}, "no setting .columns."),
        ({"source": "digits", "test_fraction": 0.0}, "between 0 and 1"),
        ({"source": "parquet", "path": "nowhere"}, "no file or folder nowhere"),
        ({"source": "npz", "path": "nowhere"}, "no file nowhere"),
    ):
        with pytest.raises(DataError, match=message):
            load(**arguments)


@pytest.mark.parametrize("shape", [(3,), (2, 4, 4)])
def test_synthetic_data_is_separable(shape: tuple[int, ...]) -> None:
    data = synthetic(600, shape, 4, seed=3)
    assert same(data, synthetic(600, shape, 4, seed=3)) and data.train["x"].shape == (480, *shape)
    x, y = data.train["x"].flatten(1), data.train["y"]
    centres = torch.stack([x[y == label].mean(0) for label in range(4)])
    nearest = torch.cdist(data.test["x"].flatten(1), centres).argmin(1)
    assert (nearest == data.test["y"]).float().mean() > 0.6
    assert same(load("synthetic"), synthetic())
    with pytest.raises(DataError, match="at least 8"):
        synthetic(7, classes=4)


def test_importing_data_imports_no_heavy_library() -> None:
    heavy = "datasets flwr_datasets sklearn mlxtend pyarrow PIL matplotlib pandas"
    code = f"import sys, fedloru.data; print([m for m in {heavy.split()} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_images_of_folders_and_tables_are_resized(tmp_path: Path) -> None:
    sizes = [6, 8, 5, 9]
    write(
        tmp_path / "t.parquet",
        pa.table({"image": [encoded(row, size) for row, size in enumerate(sizes)], "label": [0, 1] * 2}),
    )
    for row, size in enumerate(sizes):
        (tmp_path / f"f/{row % 2}").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"f/{row % 2}/{row}.png").write_bytes(encoded(row, size))
    for source, path in (("parquet", "t.parquet"), ("folder", "f")):
        data = load(source, path=str(tmp_path / path), size=4, test_fraction=0.5)
        assert data.train["x"].shape == (2, 1, 4, 4)
        with pytest.raises(DataError, match=r"set data.size to resize all images"):
            load(source, path=str(tmp_path / path))
