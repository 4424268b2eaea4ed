"""Engine equivalence across carriers: a federation on a grid trains the model of the sequential engine, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fedloru.config.parts import parts
from fedloru.config.plan import plan as make_plan
from fedloru.flower import federate, member
from fedloru.flower.site import Site, build
from fedloru.methods import METHODS
from fedloru.run.loop import Run
from fedloru.run.simulation import Simulation
from fedloru.tree import digest
from tests.double import DOUBLE
from tests.flower.grids import Grids, configuration, same, simulated

CAPACITIES: dict[str, Any] = {"rank": 3, "capacities": {"2": 0.5}}
MERGING = ("fedloru", "pfedloru", "mfedloru")
DIFFERENT = ("mfedloru", "flora", "fedhm", "hetlora", "flexlora")
VIEWED = ("fedhm", "flexlora")
"""Methods whose clients never hold the server's model, so that they score the one that they receive."""


def settings(name: str) -> dict[str, Any]:
    method = {"name": name} | ({"tau": 2} if name in MERGING else {})
    return {"method": method} | ({"lowrank": CAPACITIES} if name in DIFFERENT else {})


@pytest.mark.parametrize("name", list(METHODS))
def test_every_method_trains_the_same_model_as_in_a_simulation(name: str, tmp_path: Path) -> None:
    config, file = configuration(tmp_path, **settings(name))
    federation = Grids(config, file, tmp_path)
    run = federation.run()
    rows, expected = list(run), simulated(config)
    assert same(run, expected)
    assert [row["cohort"] for row in rows] == [row["cohort"] for row in expected.rows]
    assert [row["train_loss"] for row in rows] == [row["train_loss"] for row in expected.rows]
    assert not any(row["federation"]["refused"] or row["federation"]["lost"] for row in rows)
    if name not in VIEWED:
        assert [row["personal"] for row in rows] == [to_rounding(row["personal"]) for row in expected.rows]
    if name == "pfedloru":
        assert "personal" in rows[-1]["personal"]


def to_rounding(scores: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Return what equals ``scores`` to rounding: a client merges factors if that pays for its own examples."""
    return {name: pytest.approx(score, rel=1e-6) for name, score in scores.items()}


WRAPPED: dict[str, dict[str, Any]] = {
    "prox": {"method": {"name": "fedlora", "wrap": [{"name": "prox", "mu": 0.1}]}},
    "clip": {"method": {"name": "fedlora", "wrap": [{"name": "clip", "norm": 0.5}]}},
    "server_opt": {"method": {"name": "fedloru", "tau": 2, "wrap": [{"name": "server_opt"}]}},
    "scaffold": {"method": {"name": "fedlora", "wrap": [{"name": "scaffold", "lr": 0.1, "clients": 4}]}},
    "float64": {"model": {"name": DOUBLE}},
    "fp32": {"wire": {"codec": "fp32"}},
    "bf16": {"wire": {"codec": "bf16"}},
    "int8": {"wire": {"codec": "int8"}, "method": {"name": "fedavg"}},
    "int4": {"wire": {"codec": "int4"}},
    "int4 of pruned ranks": {"wire": {"codec": "int4"}, "method": {"name": "hetlora"}, "lowrank": CAPACITIES},
    "int4 of stacks": {"wire": {"codec": "int4"}, "method": {"name": "flora"}, "lowrank": CAPACITIES},
    "int4 of drawn factors": {"wire": {"codec": "int4"}, "method": {"name": "ffalora"}},
    "int4 in float64": {"wire": {"codec": "int4"}, "model": {"name": DOUBLE}},
    "never merged": {"method": {"name": "fedloru", "tau": float("inf")}},
    "kept factors": {"method": {"name": "fedloru", "tau": 2, "reset": "keep", "init": "both"}},
    "exact": {"method": {"name": "fedloru", "tau": 2, "accumulate": "exact"}},
    "statistics": {"images": True},
    "training in bf16": {"client": {"precision": "bf16"}},
    "dropped batches": {"client": {"epochs": 2, "drop_last": True, "optimizer": "adam", "lr": 0.01}},
}


@pytest.mark.parametrize("case", list(WRAPPED))
def test_wrappers_models_and_codecs_train_the_same_model_as_in_a_simulation(case: str, tmp_path: Path) -> None:
    config, file = configuration(tmp_path, federation={"scores": False}, **WRAPPED[case])
    run = Grids(config, file, tmp_path).run()
    rows, expected = list(run), simulated(config)
    assert same(run, expected)
    if case == "float64":
        assert {value.dtype for value in run.state.shared.values()} == {torch.float64}
    for row, other in zip(rows, expected.rows, strict=True):
        for way in ("down", "up"):
            for kind in ("factors", "dense", "statistics", "aux"):
                assert row["bytes"][way][kind] == other["bytes"][way][kind], (way, kind)
        assert row["bytes"]["down"]["first_download"] == 0
        assert (row["bytes"]["down"]["statistics"] > 0) == (case == "statistics")


def test_the_profiles_of_clients_have_their_own_accounts(tmp_path: Path) -> None:
    config, file = configuration(tmp_path, federation={"scores": False}, **settings("mfedloru"))
    rows, expected = list(Grids(config, file, tmp_path).run()), simulated(config).rows
    for row, other in zip(rows, expected, strict=True):
        assert {name: each["up"] for name, each in row["profiles"].items()} == {
            name: each["up"] for name, each in other["profiles"].items()
        }


def test_a_client_that_was_not_in_a_cohort_downloads_no_base_for_its_scores(tmp_path: Path) -> None:
    config, file = configuration(tmp_path)
    rows = list(Grids(config, file, tmp_path).run())
    assert [row["bytes"]["down"]["first_download"] for row in rows] == [0] * config.rounds
    assert rows[-1]["personal"]["shared"]["clients"] == 4


def test_the_same_clients_are_scored_as_in_a_simulation(tmp_path: Path) -> None:
    config, file = configuration(tmp_path, clients=6, eval={"clients": 2})
    rows, expected = list(Grids(config, file, tmp_path).run()), simulated(config).rows
    assert [row["personal"] for row in rows] == [to_rounding(row["personal"]) for row in expected]


def test_clients_that_cannot_build_the_model_download_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, file = configuration(tmp_path, federation={"scores": False})

    def other(*arguments: Any) -> Site:
        site: Site = build(*arguments)
        model_config = site.config._replace(model=site.config.model.model_copy(update={"seed": 99}))
        net, _ = parts(model_config, site.plan.dataset, 4)
        return site._replace(plan=site.plan.replace(net=net), run=digest(net.params))

    monkeypatch.setattr(member, "build", other)
    federation = Grids(config, file, tmp_path)
    run = federation.run()
    rows, expected = list(run), simulated(config)
    assert same(run, expected)
    downloads = [row["bytes"]["down"]["first_download"] > 0 for row in rows]
    assert downloads == [row["bytes"]["down"]["first_download"] > 0 for row in expected.rows]
    hashes = dict(federation.bases())
    assert hashes[1] == run.carrier._bases._hashes[1]  # type: ignore[attr-defined]


def test_a_federation_in_one_process_may_use_functions_of_its_user(tmp_path: Path) -> None:
    config, file = configuration(tmp_path, model={"name": DOUBLE})
    federation = federate.local(config, file, tmp_path / "local")
    run = Run(make_plan(config), carrier=federation.carrier(config))
    list(run)
    assert not isinstance(run.carrier, Simulation)
    assert same(run, simulated(config))
