"""The scores of clients: when they are taken, on which examples, and where they are shown."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import roc_auc_score

from fedloru import api, methods
from fedloru.data import Partition, audit, from_tensors, natural
from fedloru.data.client_tests import client_tests
from fedloru.evaluate import evaluate
from fedloru.net import make
from fedloru.report import client_scores, records
from fedloru.reported_run import ReportedRun
from fedloru.run.description import partition_record
from fedloru.run.folder import RunFolder
from fedloru.run.loop import Run
from fedloru.run.notes import notes
from tests.run.test_run import plan


def rounds(run: Run) -> list[int]:
    return sorted({row["round"] for row in run.client_scores})


def named(**settings: Any) -> Any:
    """Return a plan whose clients have names."""
    made = plan(**settings)
    names = [f"site {client}" for client in range(made.clients)]
    return made.replace(partition=made.partition._replace(names=names))


def own_tests(**settings: Any) -> Any:
    """Return a plan whose clients have their own test examples."""
    made = plan(**settings)
    train = [rows[:-1] for rows in made.partition.train]
    test = [rows[-1:] for rows in made.partition.train]
    return made.replace(partition=Partition("by hand", 0, train, test, {}))


def test_clients_are_scored_before_training_and_after_the_last_round() -> None:
    run = Run(named())
    rows = list(run)
    assert rounds(run) == [0, 6] and all(row["personal"] is None for row in rows)
    parts = client_tests(run.plan.dataset, run.plan.partition, run.plan.seed)
    last = {row["client"]: row for row in run.client_scores if row["round"] == 6}
    assert list(last) == [f"site {client}" for client, part in enumerate(parts) if len(part)]
    for client, part in enumerate(parts):
        if len(part):
            score = evaluate(run.plan.net, run.tensors, run.plan.dataset.test, rows=part)
            row = last[f"site {client}"]
            assert row["model"] == "shared" and row["units"] == len(part)
            assert row["loss"] == pytest.approx(score.loss, rel=1e-5) and row["accuracy"] == pytest.approx(
                score.accuracy
            )


def test_clients_with_their_own_examples_are_scored_at_every_evaluation() -> None:
    run = Run(own_tests(eval_every=4))
    rows = list(run)
    assert rounds(run) == [0, 4, 6] and [row["personal"] is not None for row in rows] == [False] * 3 + [
        True,
        False,
        True,
    ]
    client = next(row for row in run.client_scores if row["round"] == 6)
    own = run.plan.partition.test[int(client["client"])]
    score = evaluate(run.plan.net, run.tensors, run.plan.dataset.train, rows=own)
    assert client["loss"] == pytest.approx(score.loss, rel=1e-5)


def test_the_rounds_and_the_clients_can_be_chosen() -> None:
    run = Run(own_tests(eval_clients_every=3, eval_clients=2, rounds=4, eval_every=2))
    list(run)
    assert rounds(run) == [0, 3, 4] and len({row["client"] for row in run.client_scores}) == 2
    nobody = Run(plan(eval_clients=0))
    list(nobody)
    assert nobody.client_scores == []


def test_a_run_that_ends_early_scores_its_clients_in_its_last_round() -> None:
    run = Run(plan(patience=1, eval_hook=lambda *_: {"test_loss": 1.0}))
    list(run)
    assert run.state.round == 1 and rounds(run) == [0, 1]


def test_personal_models_are_scored_too() -> None:
    run = Run(plan(rounds=2, cohort=4).replace(method=methods.fedsa()))
    rows = list(run)
    last = [row for row in run.client_scores if row["round"] == 2]
    assert {row["model"] for row in last} == {"shared", "personal"}
    assert set(rows[-1]["personal"]) == {"shared", "personal"} and rows[0]["personal"] is None


def test_metrics_are_scored_for_each_client() -> None:
    run = Run(plan(metrics=["balanced_accuracy"], rounds=1))
    list(run)
    assert all("balanced_accuracy" in row for row in run.client_scores)


def test_the_page_says_which_clients_got_worse(tmp_path: Path) -> None:
    run = ReportedRun(named(eval_clients_every=3), RunFolder.create(tmp_path / "run", {}, {}))
    list(run)
    found = records.read(tmp_path / "run")
    ordered = client_scores.courses(found)
    changes = [one.change for one in ordered]
    assert changes == sorted(changes) and all(one.rounds == (0, 3, 6) for one in ordered)
    rows = {row["client"]: row for row in run.client_scores if row["round"] == 6}
    assert all(one.values[-1] == rows[one.client]["accuracy"] for one in ordered)
    text = (tmp_path / "run" / "report.html").read_text()
    assert "Scores of clients" in text and "Change of each client" in text and "site 0" in text
    head, cells = client_scores.listing(found, limit=1).texts()
    assert head[0] == "client" and len(cells) == 1 and cells[0][0] == ordered[0].client
    assert client_scores.caption(found, limit=1).startswith("The 1 that got worse most. ")


@pytest.mark.parametrize("make_plan", [named, own_tests])
def test_the_caption_says_what_clients_are_tested_on(make_plan: Callable[[], Any], tmp_path: Path) -> None:
    made = make_plan()
    record = partition_record(made.dataset, made.partition, audit(made.dataset, made.partition))
    list(ReportedRun(made, RunFolder.create(tmp_path / "run", {}, record)))
    expected = "on its own test examples." if made.has_own_tests else "with its mix of classes."
    found = records.read(tmp_path / "run")
    assert client_scores.caption(found).endswith(expected)
    assert client_scores.caption(found._replace(partition={})).endswith("better).")


def scored_in(rounds: int, best: str = "", **course: float) -> records.Records:
    """Return a run of ``rounds`` rounds that scores each client by ``course[client]`` times the round."""
    rows = [
        {"round": round, "test_error": 0.5, "client_scores": {
            name: {"units": 9, "shared": {"error": slope * round}} for name, slope in course.items()
        }}
        for round in range(1, rounds + 1)
    ]  # fmt: skip
    return records.Records(Path(), {"eval": {"best": best}} if best else {}, {}, rows, {})


def test_clients_that_got_worse_are_first_as_the_run_orders_the_metric() -> None:
    for best, first, better in (("", "basel", "higher"), ("lowest error", "chur", "lower")):
        found = scored_in(2, best, basel=-0.1, chur=0.2)
        assert client_scores.score(found) == "error"
        assert client_scores.courses(found)[0].client == first
        assert f"1 of 2 clients got worse between round 1 and round 2 ({better} is better)" in client_scores.caption(
            found
        )


def test_changes_are_shown_between_rounds_that_were_scored() -> None:
    heads = [client_scores.listing(scored_in(rounds, basel=0.1)).texts()[0] for rounds in (2, 3)]
    assert heads[1] == [*heads[0], "change since previous"] and heads[0][-1] == "change since first"
    only = client_scores.caption(scored_in(1, basel=0.1))
    assert "1 client was scored in round 1 (higher" in only and "worse" not in only


def test_the_caption_names_clients_without_the_score() -> None:
    found = scored_in(2, basel=0.1, chur=0.2)
    of_one_class = {"units": 1, "shared": {"loss": 0.5}}
    found.rounds[1]["client_scores"] |= {"uri": of_one_class}
    assert "0 of 2 clients got worse" in client_scores.caption(found)
    assert client_scores.caption(found).endswith(" 1 client has no error: uri.")


def test_scores_of_earlier_versions_are_read() -> None:
    old = {"accuracy": 0.75, "personal": 0.5, "up_bytes": 0}
    assert client_scores.by_model(old) == {"shared": {"accuracy": 0.75}, "personal": {"accuracy": 0.5}}


def test_a_metric_of_each_hospital_is_of_its_own_test_rows() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(200, 3, generator=generator)
    y = (x[:, 0] + torch.randn(200, generator=generator) > 0).long()
    hospitals = [("basel", "chur")[row % 2] for row in range(200)]
    data = from_tensors(x, y, client=hospitals)
    net = make(torch.nn.Linear(3, 2))
    run = api.run(net, methods.fedavg(), data, natural(data, "client"), rounds=2, cohort=2, metrics=["auc"])
    list(run)
    with torch.no_grad():
        outputs = run.model()(data.test["x"]).softmax(1)[:, 1]
    last = {row["client"]: row for row in run.client_scores if row["round"] == 2}
    assert list(last) == ["basel", "chur"]
    for name, row in last.items():
        own = torch.tensor([each == name for each in data.test_columns["client"]])
        assert row["units"] == int(own.sum())
        assert row["auc"] == pytest.approx(roc_auc_score(data.test["y"][own], outputs[own]), rel=1e-5)


@pytest.mark.parametrize("keys", [(), (["basel", "chur"] * 5,)])
def test_a_note_says_that_clients_are_not_scored_on_their_own_rows(keys: tuple[list[str], ...]) -> None:
    x, y = torch.randn(40, 3), torch.arange(40) % 2
    data = from_tensors(x, y, client=["basel", "chur"] * 20, test=(x[:10], y[:10], *keys))
    run = api.run(make(torch.nn.Linear(3, 2)), methods.fedavg(), data, natural(data, "client"), rounds=1, cohort=2)
    found = [note for note in notes(run.plan) if "each client is scored on test examples with its mix" in note]
    assert len(found) == (0 if keys else 1)


def test_clients_of_a_language_model_are_compared_by_perplexity() -> None:
    def row(round: int, **losses: float) -> dict[str, Any]:
        scores = {name: {"units": 9, "shared": {"loss": loss, "accuracy": 0.5}} for name, loss in losses.items()}
        return {"round": round, "test_perplexity": 3.0, "client_scores": scores}

    rows = [row(1, berlin=1.0, paris=1e6), row(2, berlin=2.0, paris=0.0)]
    found = records.Records(Path(), {}, {}, rows, {})
    assert client_scores.score(found) == "perplexity"
    berlin, paris = client_scores.courses(found)
    assert (berlin.client, berlin.values) == ("berlin", pytest.approx((math.e, math.e**2)))
    assert paris.values[1] == 1.0 and math.isfinite(paris.values[0])
    assert "1 of 2 clients got worse" in client_scores.caption(found) and "lower is better" in client_scores.caption(
        found
    )
