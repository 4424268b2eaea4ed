"""The data sets of the claims, read from files, with columns for natural partitions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from torch import Tensor

import fedloru as fl
from fedloru.data import Dataset, size
from fedloru.rng import gen

WORDS = 2_000
"""The most frequent words of the training texts, which are the features of a bag of words."""
WINDOW = 128
"""The samples of a window of MotionSense, 2.56 s at 50 Hz."""
HELD_OUT_TRIALS = ("11", "12", "13", "14", "15", "16")
"""The trials of every person that are for test: one of every activity."""
HEART_TEST = 0.25


def images(folder: Path, name: str, train: int, test: int, size: int | None = None) -> Dataset:
    """Return the first images of ``NAME_train.parquet`` and ``NAME_test.parquet``, resized to ``size`` pixels.

    The files are shuffled.
    """
    data = first(fl.data.load("parquet", path=str(folder / name), size=size), train)
    return data._replace(test={key: value[:test] for key, value in data.test.items()})


def first(data: Dataset, train: int | None) -> Dataset:
    """Return ``data`` with its first ``train`` training examples, or with all of them if it is None."""
    return data._replace(
        train={key: value[:train] for key, value in data.train.items()},
        columns={name: values[:train] for name, values in data.columns.items()},
    )


def dolly(folder: Path, train: int, test: int) -> Dataset:
    """Return the instructions of Dolly as bags of words, to be told apart by their category."""
    table = parquet.read_table(folder / "dolly15k_all.parquet").to_pydict()
    classes = sorted(set(table["category"]))
    y = torch.tensor([classes.index(category) for category in table["category"]])
    rows = torch.randperm(len(y), generator=gen(0, "dolly")).tolist()
    texts, y = [table["instruction"][row] for row in rows], y[rows]
    x = bags(texts[:train], texts[train : train + test])
    return Dataset("Dolly", {"x": x[0], "y": y[:train]}, {"x": x[1], "y": y[train : train + test]}, classes)


def bags(train: Sequence[str], test: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Return TF-IDF weights of the ``WORDS`` most frequent words of ``train``, scaled to a mean square of 1."""
    vectorizer = TfidfVectorizer(max_features=WORDS, binary=True, dtype=np.float32)
    fitted = torch.from_numpy(vectorizer.fit_transform(train).toarray())
    scale = fitted.square().mean().rsqrt()
    return fitted * scale, torch.from_numpy(vectorizer.transform(test).toarray()) * scale


def motion(folder: Path) -> Dataset:
    """Return windows of the motion of 18 people, (768,), to be told apart by activity; the column is ``person``."""
    with np.load(folder / "motionsense.npz") as file:
        x, lengths = torch.from_numpy(file["x"]).float(), file["length"].tolist()
        people, activities = file["subject"].tolist(), file["activity"].tolist()
        held_out = [str(trial).rsplit("_", 1)[1] in HELD_OUT_TRIALS for trial in file["trial"]]
        classes = [str(name) for name in file["activities"]]
    windows = [trial[: len(trial) // WINDOW * WINDOW].reshape(-1, WINDOW, x.shape[1]) for trial in x.split(lengths)]
    counts = [len(each) for each in windows]
    everything = torch.cat(windows)
    test = torch.tensor(np.repeat(held_out, counts))
    person = np.repeat(people, counts)[~test.numpy()]
    whole = everything - everything[~test].mean((0, 1))
    whole = (whole / whole[~test].std((0, 1))).flatten(1)
    y = torch.tensor(np.repeat(activities, counts))
    return Dataset(
        "MotionSense",
        {"x": whole[~test], "y": y[~test]},
        {"x": whole[test], "y": y[test]},
        classes,
        {"person": [f"{each:02d}" for each in person]},
    )


def heart(folder: Path, seed: int) -> Dataset:
    """Return patients of four hospitals, (26,), who have a heart disease or not; ``seed`` draws the test rows.

    Missing values are filled by the median of the training rows, and every value has an indicator of whether it was
    missing. The column is ``hospital``, and every hospital has the same share of test rows.
    """
    table = parquet.read_table(folder / "heart_disease_all.parquet").to_pandas()
    values = torch.tensor(table.drop(columns=["hospital", "num", "label"]).to_numpy(np.float32))
    hospital = table["hospital"].to_numpy(str)
    test = torch.zeros(len(values), dtype=torch.bool)
    for name in sorted(set(hospital)):
        rows = torch.from_numpy(np.flatnonzero(hospital == name))
        drawn = torch.randperm(len(rows), generator=gen(seed, "heart", str(name)))
        test[rows[drawn[: round(HEART_TEST * len(rows))]]] = True
    missing = values.isnan()
    filled = torch.where(missing, values[~test].nanmedian(0).values, values)
    x = torch.cat([filled, missing.float()], 1)
    x = (x - x[~test].mean(0)) / x[~test].std(0).clamp(min=1e-3)
    y = torch.from_numpy((table["num"] > 0).to_numpy(np.int64))
    columns = {"hospital": hospital[~test.numpy()].tolist()}
    return Dataset(
        "heart disease", {"x": x[~test], "y": y[~test]}, {"x": x[test], "y": y[test]}, ("no", "yes"), columns
    )


def validation(data: Dataset, seed: int) -> Dataset:
    """Return ``data`` with a fifth of the training examples in place of the test examples, for tuning."""
    rows = torch.randperm(size(data.train), generator=gen(seed, "validation"))
    rest = torch.ones(len(rows), dtype=torch.bool)
    rest[rows[: len(rows) // 5]] = False
    return data._replace(
        train={key: value[rest] for key, value in data.train.items()},
        test={key: value[~rest] for key, value in data.train.items()},
        columns={name: tuple(compress(values, rest.tolist())) for name, values in data.columns.items()},
    )
