"""Ranks along a run, recorded by the run itself and measured by ``watch``."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import fedloru as fl
from fedloru.analysis.trajectory import angles, change_ranks, curves, watch
from fedloru.lowrank import spectra


def begin(method: fl.methods.Method, out: Path | None = None, **settings: object) -> fl.Run:
    digits = fl.data.load("digits")
    clients = fl.data.iid(digits, clients=4)
    model = fl.models.build("mlp", channels=1, size=8, classes=10, seed=0)
    net = fl.attach(model, rank=2, targets=["fc1"]) if method.traits.low_rank else fl.make(model)
    recipe = fl.Recipe(lr=0.2, steps=3)
    return fl.run(
        net, method, digits, clients, rounds=6, cohort=2, recipe=recipe, out=out, diagnostics_every=1, **settings
    )


def test_curves_are_read_from_the_rows_of_a_run() -> None:
    rows = list(begin(fl.fedloru(recipe="paper", tau=2), eval_every=3))
    assert [round for round, _ in curves(rows, "stable_rank_increment")["fc1.weight"]] == [2, 4, 6]
    assert [round for round, _ in curves(rows, "effective_rank_total")["fc1.weight"]] == [1, 2, 3, 4, 5, 6]
    assert [round for round, _ in curves(rows, "overlap_rows")["fc1.weight"]] == [4, 6]
    expected = [row["sites"]["fc1.weight"]["stable_rank_client"] for row in rows]
    assert [value for _, value in curves(rows, "stable_rank_client")["fc1.weight"]] == expected
    assert curves(rows, "nothing") == {}


def test_watched_ranks_equal_the_recorded_ones() -> None:
    recorded = curves(begin(fl.fedloru(recipe="paper", tau=2)), "effective_rank_total")["fc1.weight"]
    watched = curves(watch(begin(fl.fedloru(recipe="paper", tau=2), diagnostics=False)), "effective_rank_total")[
        "fc1.weight"
    ]
    assert watched == [(round, pytest.approx(rank, rel=1e-3)) for round, rank in recorded]


def test_a_run_without_sites_is_watched_every_n_rounds() -> None:
    run = begin(fl.fedavg())
    first = {key: value.clone() for key, value in run.model().named_parameters()}
    found = curves(watch(run, every=3), "stable_rank_total")
    assert found.keys() == {"fc1.weight", "fc2.weight"}
    assert [round for round, _ in found["fc1.weight"]] == [3, 6]
    change = (dict(run.model().named_parameters())["fc1.weight"] - first["fc1.weight"]).detach()
    sigma = torch.linalg.svdvals(change.double())
    assert found["fc1.weight"][-1][1] == pytest.approx(float((sigma**2).sum() / sigma[0] ** 2))


def test_watching_only_adds_to_the_rows() -> None:
    watched, plain = begin(fl.fedloru(recipe="paper", tau=2)), begin(fl.fedloru(recipe="paper", tau=2))
    rows, bare = list(watch(watched)), list(plain)
    assert fl.tree.equal(watched.state.shared, plain.state.shared)
    assert rows[1]["sites"]["fc1.weight"].keys() == bare[1]["sites"]["fc1.weight"].keys()
    assert "fc2.weight" in rows[0]["sites"] and "fc2.weight" not in bare[0]["sites"]


def test_overlaps_survive_a_resume_right_before_the_second_merge(tmp_path: Path) -> None:
    whole = curves(begin(fl.fedloru(recipe="paper", tau=2)), "overlap_columns")
    for row in begin(fl.fedloru(recipe="paper", tau=2), tmp_path / "run", checkpoint_every=1):
        if row["round"] == 3:
            break
    rows = list(begin(fl.fedloru(recipe="paper", tau=2), tmp_path / "run", checkpoint_every=1, resume=True))
    assert curves(rows, "overlap_columns") == whole


def test_angles_between_increments() -> None:
    net = fl.attach(torch.nn.Conv2d(2, 5, 3), rank=2)
    (site,) = net.sites
    g = torch.Generator().manual_seed(0)
    one, other = ({key: torch.randn(net.params[key].shape, generator=g) for key in site.keys} for _ in range(2))
    mixed = {site.a: one[site.a], site.b: other[site.b]}
    found = angles(net.sites, one, mixed)[site.weight]
    assert found.rows.tolist() == pytest.approx([0, 0], abs=1e-6)
    x, y = (torch.linalg.qr(factors[site.b].flatten(1).double()).Q for factors in (one, other))
    assert found.columns.cos().square().mean() == pytest.approx(spectra.overlap(x, y))
    assert 0 < found.columns[0] < found.columns[1] <= math.pi / 2


def test_vectors_have_no_ranks() -> None:
    before = {"w": torch.zeros(3, 2, 2), "b": torch.zeros(3)}
    after = {"w": torch.ones(3, 2, 2), "b": torch.ones(3)}
    assert change_ranks(before, after) == {"w": pytest.approx({"stable": 1, "effective": 1})}
