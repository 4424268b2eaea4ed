"""Sites with tables: the features, fills and statistics are those of the server's table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fedloru import config as configs
from fedloru.config import completed, dump
from fedloru.config.plan import federation_plan
from fedloru.errors import DataError
from fedloru.flower.protocol import Hello
from fedloru.flower.site import PLACES, PRIVATE, Source, build, shapes_of

SERVER = "age,sex,ward,label\n60,m,a,sick\n40,f,a,well\n50,m,b,sick\n,f,b,well\n30,f,a,sick\n80,m,b,well\n"


def hello(folder: Path) -> Hello:
    (folder / "server.csv").write_text(SERVER)
    table: dict[str, Any] = {
        "data": {"source": "csv", "path": str(folder / "server.csv"), "test": str(folder / "server.csv")},
        "partition": {"scheme": "natural", "key": "ward"},
        "model": {"name": "mlp", "hidden": [4]},
        "method": {"name": "fedavg"},
        "cohort": {"size": 2},
    }
    table["data"] |= {"missing": "median", "standardize": True}
    config = configs.parse(table, "the test")
    plan = federation_plan(config, 2)
    whole, scaling = dump(completed(config, plan)), plan.dataset.scaling
    assert scaling is not None
    return Hello(
        protocol=1,
        fedloru="0",
        flwr="0",
        run="0" * 32,
        base="0" * 32,
        rounds=1,
        client=0,
        name="",
        clients=2,
        config={name: value for name, value in whole.items() if name not in PRIVATE},
        reading={name: value for name, value in whole["data"].items() if name not in PLACES},
        classes=list(plan.dataset.classes),
        shapes=shapes_of(plan.dataset),
        mean=list(scaling.mean),
        std=list(scaling.std),
        sends_base=True,
        scores=False,
    )


def test_a_site_uses_the_categories_fills_and_statistics_of_the_server(tmp_path: Path) -> None:
    terms = hello(tmp_path)
    (tmp_path / "own.csv").write_text("sex,age,label\nm,90,well\nx,,well\nm,70,well\nm,,well\nm,70,well\n")
    site = build(Source(tmp_path / "own.csv"), terms)
    rows = torch.cat([site.plan.dataset.train["x"], site.tests["x"]])
    mean, std = terms.mean[0], terms.std[0]
    want = [[(age - mean) / std, 0, sex == "m"] for sex, age in [("m", 90), ("x", 50), ("m", 70), ("m", 50), ("m", 70)]]
    assert torch.allclose(torch.tensor(sorted(rows.tolist())), torch.tensor(sorted(want)).float(), atol=1e-6)
    assert site.plan.dataset.train["y"].tolist() == [1] * 4


def test_a_site_without_a_column_is_refused(tmp_path: Path) -> None:
    terms = hello(tmp_path)
    (tmp_path / "own.csv").write_text("age,label\n90,well\n50,sick\n")
    with pytest.raises(DataError, match=r"own.csv has no column 'sex'"):
        build(Source(tmp_path / "own.csv"), terms)
