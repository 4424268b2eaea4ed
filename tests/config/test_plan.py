"""The plan that a configuration describes, and what cannot be created as configured."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import nn

from fedloru import tree
from fedloru.config import load, plan
from fedloru.errors import ConfigError, DataError, ModelError, PartitionError
from fedloru.recipe import Recipe


def wrong_scores(width: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width))


def broken() -> nn.Module:
    raise KeyError("width")


def pair() -> nn.Module:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(64, 10)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, int]:
            return self.fc(x.flatten(1)), 1

    return Pair()


def test_a_plan_has_the_configured_settings() -> None:
    made = plan(load("small", ["wire.codec=bf16", "eval.every=3", "cohort.seed=4", "engine.name=sequential"]))
    assert (made.method.name, made.clients, made.cohort, made.rounds) == ("fedloru", 10, 5, 20)
    assert (made.codec, made.eval_every, made.cohort_seed, made.engine) == ("bf16", 3, 4, "sequential")
    assert made.recipe == Recipe()
    assert [site.weight for site in made.net.sites] == ["fc1.weight"]


def test_fedavg_trains_every_parameter_and_has_no_site() -> None:
    net = plan(load("small", ["method.name=fedavg"])).net
    assert not net.sites
    assert net.trainable == net.params.keys()


def test_low_rank_settings_reach_the_layers() -> None:
    net = plan(load("small", ["lowrank.alpha=12", "lowrank.dense=['fc2.*']"])).net
    (site,) = net.sites
    assert site.scale == 3.0
    assert net.trainable == {"fc1.a", "fc1.b", "fc2.weight", "fc2.bias"}


def test_wrappers_are_applied_to_the_method() -> None:
    changes = ["method.prox=0.1", "method.clip=2", "server.rule=adam", "server.lr=0.01"]
    wraps = plan(load("small", changes)).method.config["wrap"]
    assert [wrap["name"] for wrap in wraps] == ["prox", "server_opt", "clip"]
    assert wraps[1]["lr"] == 0.01


def test_scaffold_gets_the_clients_and_their_learning_rate() -> None:
    changes = [
        "method.scaffold=true",
        "client.momentum=0",
        "client.schedule=constant",
        "method.clip=2",
        "server.rule=adam",
    ]
    made = plan(load("small", changes))
    server, scaffold, clip = made.method.config["wrap"]
    assert (server["name"], clip["name"]) == ("server_opt", "clip")
    assert scaffold == {"name": "scaffold", "lr": made.recipe.rate, "clients": made.clients}


def test_model_and_partition_have_their_own_seeds() -> None:
    first, second, third = (
        plan(load("small", changes)) for changes in ([], ["model.seed=1"], ["partition.seed=1"])
    )  # fmt: skip
    assert not tree.equal(first.net.params, second.net.params)
    assert [rows.tolist() for rows in first.partition.train] == [rows.tolist() for rows in second.partition.train]
    assert tree.equal(first.net.params, third.net.params)
    assert [rows.tolist() for rows in first.partition.train] != [rows.tolist() for rows in third.partition.train]


def test_the_seed_of_a_run_draws_all_but_the_test_set() -> None:
    first, second = plan(load("small")), plan(load("small", ["seed=1"]))
    assert not tree.equal(first.net.params, second.net.params)
    assert first.partition.seed != second.partition.seed
    assert tree.equal(first.dataset.test, second.dataset.test)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (["lowrank.rank=65"], ModelError, "got rank 65"),
        (["lowrank.targets=['conv*']"], ModelError, "no layer matches 'conv"),
        (["partition.min_examples=100"], PartitionError, "raise alpha, or lower clients"),
        (["partition.clients=2000"], PartitionError, "cannot give 2000 clients"),
        (["data.source=synthetic", "client.flip=true"], ConfigError, "flip need images"),
        (["data.source=synthetic", "model.name=cnn"], ModelError, "needs at least 4×4 pixels"),
        (
            ["data.source=synthetic", "model.name=resnet8", "lowrank.targets=['layer*']"],
            ModelError,
            "the model cannot be evaluated on an example of 'synthetic', x of shape",
        ),
        (["engine.device=tpu"], ConfigError, "device 'tpu' cannot be used"),
        (["model.name=python:no.such:thing"], ModelError, "cannot be imported"),
        (
            [f"model.name=python:{__name__}:wrong_scores", "model.width=7", "lowrank.targets=['*']"],
            ModelError,
            r"returns \(1, 7\) for an example of 'digits'.*per class, \(1, 10\)",
        ),
        ([f"model.name=python:{__name__}:pair", "lowrank.targets=['*']"], ModelError, "returns tuple for"),
        ([f"model.name=python:{__name__}:pair", "model.depth=3"], ConfigError, "model.depth is not a setting"),
        (
            [f"model.name=python:{__name__}:broken"],
            ModelError,
            r"broken failed: KeyError: 'width' \(.*test_plan.py, line",
        ),
        (["data.source=npz", "data.path=nowhere.npz"], DataError, "there is no file nowhere.npz"),
    ],
)
def test_what_cannot_be_created_is_refused(changes: list[str], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        plan(load("small", changes))


def test_a_natural_partition_has_the_clients_of_its_column(tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32), np.arange(60) % 3
    np.savez(tmp_path / "own.npz", x=x, y=y, who=np.arange(60) // 20)
    changes = ["data.source=npz", f"data.path={tmp_path / 'own.npz'}", "data.columns=['who']"]
    changes += ["partition.scheme=natural", "partition.key=who", "cohort.size=2"]
    assert plan(load("small", changes)).clients == 3
    with pytest.raises(ConfigError, match="a cohort of 5 is larger than the partition, which has 3 clients"):
        plan(load("small", [*changes, "cohort.size=5"]))


def test_images_that_are_not_square_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "wide.npz", x=np.zeros((40, 8, 9), np.uint8), y=np.arange(40) % 4)
    with pytest.raises(ModelError, match="8×9 pixels, expected square images"):
        plan(load("small", ["data.source=npz", f"data.path={tmp_path / 'wide.npz'}"]))


def test_the_published_settings_make_a_plan(tmp_path: Path) -> None:
    path = images(tmp_path, {"img": (32, 32, 3)}, "fine_label", 100)
    made = plan(load("paper-cifar100", [f"data.path={path}"]))
    ranks = {site.weight: (site.rank, site.scale) for site in made.net.sites}
    assert len(ranks) == 19
    assert ranks["layer1.0.conv1.weight"] == (64, 1.0)
    assert ranks["layer3.0.shortcut.0.weight"] == (128, 1.0)
    start = made.method.init(made.net, 0).shared
    whole = tree.size(tree.omit(made.net.params, made.net.factors))
    factors = tree.size(tree.select(start, made.net.factors))
    assert 0.3 < factors / whole < 0.5
    assert {"conv1.weight", "norm1.weight", "layer1.0.norm1.weight", "fc.weight"} <= made.net.trainable


@pytest.mark.parametrize("rank", [16, 64])
@pytest.mark.parametrize(
    ("name", "image", "pixels", "sites"),
    [("paper-cifar10", "img", (32, 32, 3), 11), ("paper-fashion", "image", (28, 28), 11)],
)
def test_ranks_and_clients_of_the_published_settings_can_be_set(
    tmp_path: Path, name: str, image: str, pixels: tuple[int, ...], sites: int, rank: int
) -> None:
    path = images(tmp_path, {image: pixels}, "label", 10)
    changes = ["partition.clients=100", "cohort.size=50", f"lowrank.rank={rank}", f"lowrank.alpha={rank}"]
    made = plan(load(name, [f"data.path={path}", *changes]))
    assert {(site.rank, site.scale) for site in made.net.sites} == {(rank, 1.0)}
    assert (len(made.net.sites), made.clients, made.cohort) == (sites, 100, 50)


def test_a_lower_rank_replaces_those_of_single_layers(tmp_path: Path) -> None:
    path = images(tmp_path, {"img": (32, 32, 3)}, "fine_label", 100)
    changes = ["rank=32", "alpha=32", 'ranks={"layer*"=32}', 'alphas={"layer*"=32.0}']
    made = plan(load("paper-cifar100", [f"data.path={path}", *(f"lowrank.{change}" for change in changes)]))
    assert {(site.rank, site.scale) for site in made.net.sites} == {(32, 1.0)}


def test_the_usual_setting_of_the_field_trains_a_tenth_of_its_clients(tmp_path: Path) -> None:
    path = images(tmp_path, {"img": (32, 32, 3)}, "label", 10, count=1000)
    made = plan(load("field-cifar10", [f"data.path={path}", "partition.alpha=0.5"]))
    assert (made.clients, made.cohort, made.partition.settings["alpha"]) == (100, 10, 0.5)
    assert len(made.net.sites) == 8


def images(folder: Path, column: dict[str, tuple[int, ...]], label: str, classes: int, count: int = 200) -> Path:
    """Write made-up images, of the shape of their column, as train.parquet and test.parquet; return the folder."""
    draw = np.random.default_rng(0)
    ((name, shape),) = column.items()
    values = [png(draw.integers(0, 256, shape, dtype=np.uint8)) for _ in range(count)]
    table = pa.table({name: values, label: [row % classes for row in range(count)]})
    names = json.dumps([f"class {index}" for index in range(classes)]).encode()
    for part in ("train", "test"):
        pq.write_table(table.replace_schema_metadata({"classes": names}), folder / f"{part}.parquet")
    return folder


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()
