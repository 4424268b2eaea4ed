from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedloru.data import load
from fedloru.errors import DataError

Y = np.arange(12) % 3
X = np.random.default_rng(0).integers(0, 256, (12, 5), np.uint8)


def saved(place: Path, **arrays: Any) -> str:
    np.savez(place / "a.npz", **arrays)
    return str(place / "a.npz")


def npy(shape: object, dtype: str = "|u1", data: bytes = b"") -> bytes:
    header = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


@pytest.mark.parametrize(
    ("shape", "axes", "want"),
    [
        ((28, 28, 2), "auto", (2, 28, 28)),
        ((2, 28, 28), "auto", (2, 28, 28)),
        ((28, 28, 1), "auto", (1, 28, 28)),
        ((8, 8), "auto", (1, 8, 8)),
        ((3, 32, 3), "NCHW", (3, 32, 3)),
        ((3, 32, 3), "NHWC", (3, 3, 32)),
        ((13, 8, 8), "NCHW", (13, 8, 8)),
        ((3, 40), "NHW", (1, 3, 40)),
    ],
)
def test_axes(tmp_path: Path, shape: tuple[int, ...], axes: str, want: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).integers(0, 256, (12, *shape), np.uint8)
    data = load("npz", path=saved(tmp_path, x=x, y=Y, x_test=x, y_test=Y), axes=axes)
    images = torch.from_numpy(x.reshape(12, -1) if axes == "NHW" else x).float()
    moved = images.movedim(-1, 1) if want[0] == shape[-1] and axes != "NCHW" and len(shape) == 3 else images
    assert data.train["x"].shape[1:] == want
    channel = moved.reshape(12, *want)[:, 0]
    wanted = (channel - channel.mean()) / channel.std(correction=0)
    assert torch.allclose(data.train["x"][:, 0], wanted, atol=1e-4)


@pytest.mark.parametrize(
    "shape", [(3, 3, 3), (3, 32, 3), (1, 28, 1), (4, 5, 3), (13, 8, 8), (3, 40), (40, 3), (1, 40), (40, 1)]
)
def test_shapes_that_can_be_read_in_two_ways_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"has shape .* set data\.axes to"):
        load("npz", path=saved(tmp_path, x=np.zeros((12, *shape)), y=Y))


@pytest.mark.parametrize("labels", [Y[:, None], Y[:, None, None], Y.astype(">i2"), Y.astype(np.uint64), Y.astype("S1")])
def test_labels_that_are_certain_are_converted(tmp_path: Path, labels: Any) -> None:
    data = load("npz", path=saved(tmp_path, x=X, y=labels, x_test=X, y_test=labels))
    assert data.train["y"].tolist() == Y.tolist() and data.classes == ("0", "1", "2")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.eye(3)[Y], r"labels have shape \(12, 3\), expected \(N,\), one class per example; for one-hot"),
        (Y[None], "12 examples, but 1 labels"),
        (np.array(3), r"'y' has shape \(\), expected \(N,\)"),
        (
            Y.astype(float),
            "float64 without decimal places, such as 0.0, which may be targets or the numbers of classes",
        ),
        (Y.astype(complex), "integers or strings, got complex"),
        (np.array([b"\xff"] * 12), "not UTF-8"),
        (np.array(["a", ""] * 6), "6 of 12 rows have no 'y'"),
    ],
)
def test_other_labels_are_refused(tmp_path: Path, labels: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load("npz", path=saved(tmp_path, x=X, y=labels))


def test_the_test_set_must_have_the_range_of_the_training_set(tmp_path: Path) -> None:
    images = X.reshape(12, 1, 5, 1).repeat(5, 3)
    for x, test in ((X, X / 255), (images.astype(float), images / 255), (X > 9, X)):
        with pytest.raises(DataError, match=r"dtype and range|scale both alike"):
            load("npz", path=saved(tmp_path, x=x, y=Y, x_test=test, y_test=Y))
    whole, scaled = (load("npz", path=saved(tmp_path, x=x, y=Y)) for x in (X, X / 255))
    assert torch.allclose(whole.train["x"], scaled.train["x"], atol=1e-5)


def test_arrays_that_are_not_read_are_named(tmp_path: Path) -> None:
    assert load("npz", path=saved(tmp_path, x=X, y=Y, z=Y, y_test=Y)).remarks == (
        f"2 arrays not read (in {tmp_path / 'a.npz'}): z, y_test",
    )


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (npy((59 * 2**30,)), "states the shape .* but has 0 bytes"),
        (npy((12, 10**30)), "states the shape .* but has 0 bytes"),
        (npy((12, 5), data=bytes(59)), "has 59 bytes"),
        (npy((12, 5), data=bytes(61)), "has 61 bytes"),
        (npy((12, 5), "|S0"), "has 0 bytes"),
        (npy((12, 1), "|O", b"cos\nsystem\n(S'true'\ntR."), "without object arrays"),
        (npy((-12, -5), data=bytes(60)), "not a NumPy archive"),
        (npy("(" * 900), "not a NumPy archive"),
        (b"", "not a NumPy archive"),
    ],
)
def test_what_a_header_states_is_checked(tmp_path: Path, x: bytes, message: str) -> None:
    labels = io.BytesIO()
    np.save(labels, Y)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", x)
        archive.writestr("y.npy", labels.getvalue())
    with pytest.raises(DataError, match=message):
        load("npz", path=str(tmp_path / "a.npz"))


def test_arrays_that_do_not_fit_into_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=np.zeros((12, 100_000)), y=Y)
    monkeypatch.setattr("fedloru.data.memory.memory", lambda: 2**20)
    with pytest.raises(DataError, match=r"x, float64 of shape .* would need 0.0 GiB of memory"):
        load("npz", path=str(path))


def out_of_memory(error: Exception) -> Any:
    def read() -> None:
        raise error

    return read


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("[enforce] DefaultCPUAllocator: can't allocate memory")])
def test_failed_allocations_are_reported_in_a_sentence(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedloru.data.sources.SOURCES.find", lambda name: out_of_memory(error), raising=False)
    with pytest.raises(DataError, match="does not fit into memory"):
        load("digits")


@pytest.mark.parametrize(
    ("shape", "want"), [((8, 5), (5,)), ((8, 4, 5), (1, 4, 5)), ((8, 6, 5, 3), (3, 6, 5)), ((8, 3, 4, 5), (3, 4, 5))]
)
@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.int32])
def test_npz_axes(tmp_path: Path, shape: tuple[int, ...], want: tuple[int, ...], dtype: type) -> None:
    x = np.random.default_rng(0).integers(0, 99, shape).astype(dtype)
    np.savez(tmp_path / "a.npz", x=x, y=np.array([3, 7] * 4), who=np.arange(8))
    data = load("npz", path=str(tmp_path / "a.npz"), test_fraction=0.25, columns=["who"])
    assert data.train["x"].shape == (6, *want) and data.train["x"].dtype == torch.float32
    assert data.classes == ("3", "7") and len(data.columns["who"]) == 6


def test_npz_vectors_are_standardized_per_feature(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(5, [1, 100, 0.01], (50, 3))
    x[:, 2] = 4
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(50) % 2, x_test=x[:4], y_test=np.array([0, 1, 1, 1]))
    data = load("npz", path=str(tmp_path / "a.npz"))
    assert torch.allclose(data.train["x"].std(0, correction=0), torch.tensor([1.0, 1.0, 0.0]), atol=1e-4)
    assert data.test["y"].tolist() == [0, 1, 1, 1] and torch.equal(data.test["x"], data.train["x"][:4])


def test_invalid_npz_files_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    x, y = np.zeros((4, 2)), np.arange(4) % 2
    cases: list[tuple[dict[str, object], str]] = [
        ({"x": x}, "no array 'y'"),
        ({"x": np.array([{}] * 4, dtype=object), "y": y}, "without object arrays"),
        ({"x": x, "y": np.arange(3)}, "4 examples, but 3 labels"),
        ({"x": np.zeros(4), "y": y}, r"\(N, d\)"),
        (
            {"x": x + np.array([[0], [0], [np.nan], [0]]), "y": y},
            "values that are not finite, or too large for float32, in 1 of 4 examples, first in row 2",
        ),
        ({"x": x, "y": y, "x_test": x}, "did you mean 'x_test'"),
    ]
    for arrays, message in cases:
        np.savez(path, **arrays)  # type: ignore[arg-type]
        with pytest.raises(DataError, match=message):
            load("npz", path=str(path))
    for damage in (b"", b"\x80\x04K\x01.", b"PK\x03\x04 and then nothing"):
        path.write_bytes(damage)
        with pytest.raises(DataError, match="not a NumPy archive"):
            load("npz", path=str(path))
    np.save(tmp_path / "one.npy", x)
    with pytest.raises(DataError, match="not a NumPy archive"):
        load("npz", path=str(tmp_path / "one.npy"))
    np.savez(path, x=x, y=y, who=np.arange(3))
    with pytest.raises(DataError, match="'who' has 3 values for 4 examples"):
        load("npz", path=str(path), columns=["who"])


def test_npz_has_keys_of_test_examples(tmp_path: Path) -> None:
    arrays = {
        "x": np.zeros((4, 2)),
        "y": [0, 1, 0, 1],
        "who": [1, 2, 1, 2],
        "x_test": np.zeros((2, 2)),
        "y_test": [0, 1],
    }
    np.savez(tmp_path / "a.npz", **arrays, who_test=[2, 1])
    assert load("npz", path=str(tmp_path / "a.npz"), columns=["who"]).test_columns == {"who": ("2", "1")}
    np.savez(tmp_path / "a.npz", **arrays)
    assert load("npz", path=str(tmp_path / "a.npz"), columns=["who"]).test_columns == {}
    np.savez(tmp_path / "a.npz", **arrays, who_test=[2])
    with pytest.raises(DataError, match="test set of a: column 'who' has 1 values for 2 examples"):
        load("npz", path=str(tmp_path / "a.npz"), columns=["who"])
