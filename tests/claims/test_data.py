"""The data of the claims is read as described."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from claim import data


def test_motion_is_cut_into_windows_and_tested_on_other_trials(tmp_path: Path) -> None:
    lengths = [300, 256, 130, 127]
    x = np.random.default_rng(0).normal(size=(sum(lengths), 6)).astype(np.float16)
    trials = {"subject": [1, 1, 2, 2], "activity": [0, 1, 0, 1], "trial": ["dws_1", "ups_12", "dws_2", "ups_3"]}
    np.savez(tmp_path / "motionsense.npz", x=x, length=lengths, activities=["dws", "ups"], **trials)
    read = data.motion(tmp_path)
    assert read.train["x"].shape == (3, 768) and read.test["x"].shape == (2, 768)  # windows of 128 of 6 channels
    assert read.columns["person"] == ("01", "01", "02")
    assert read.train["y"].tolist() == [0, 0, 0] and read.test["y"].tolist() == [1, 1]
    channels = read.train["x"].reshape(-1, 6)
    assert channels.mean(0) == pytest.approx(torch.zeros(6), abs=1e-5)


def test_missing_values_of_patients_are_filled_by_the_median_of_training_rows(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    features = {f"f{n}": generator.normal(size=40) for n in range(13)}
    features["f0"][::4] = np.nan
    table = {"hospital": ["a", "b"] * 20, **features, "num": [0.0, 2.0, 1.0, 0.0] * 10, "label": [0, 1, 1, 0] * 10}
    parquet.write_table(pa.table(table), tmp_path / "heart_disease_all.parquet")
    read = data.heart(tmp_path, 0)
    assert read.train["x"].shape == (30, 26) and read.test["x"].shape == (10, 26)
    assert sorted(read.columns["hospital"]) == ["a"] * 15 + ["b"] * 15
    filled = read.train["x"][read.train["x"][:, 13] > 0, 0]
    known = read.train["x"][read.train["x"][:, 13] < 0, 0]
    assert filled.unique().numel() == 1 and float(filled[0]) == pytest.approx(float(known.median()))
    assert not torch.equal(read.test["x"], data.heart(tmp_path, 1).test["x"])
