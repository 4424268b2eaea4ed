"""Tuning is even, runs are not repeated, and every part asks for what exists."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import claims
import llm_tasks
import pytest
import torch
from claim import budget, data, parts, tasks, tuning
from claim.contenders import CONTENDERS
from claim.runs import Job, Store, Tuned, train

import fedloru as fl
from tests.claims.small import CHOSEN, NOWHERE, SMALL, examples, lines, start


def test_a_stopped_benchmark_continues_and_a_complete_one_repeats_nothing(
    small: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = start(monkeypatch, tmp_path / "whole")
    assert len(whole) == len({job.key for job in whole}) == len(lines(tmp_path / "whole"))

    with monkeypatch.context() as patch:
        add, added = Store.add, list[str]()

        def interrupted(store: Store, job: Job, result: dict[str, Any], commit: str) -> None:
            if len(added) == 5:
                raise KeyboardInterrupt
            add(store, job, result, commit)
            added.append(job.key)

        patch.setattr(Store, "add", interrupted)
        with pytest.raises(SystemExit, match="stopped: the same command continues"):
            start(patch, tmp_path / "stopped")
    assert len(lines(tmp_path / "stopped")) == 5
    rest = start(monkeypatch, tmp_path / "stopped")
    assert len(rest) == len(whole) - 5
    assert start(monkeypatch, tmp_path / "stopped") == []

    def accuracies(out: Path) -> dict[str, float]:
        return {record["key"]: record["result"]["accuracy"] for record in map(json.loads, lines(out))}

    assert accuracies(tmp_path / "stopped") == accuracies(tmp_path / "whole")


def test_a_line_that_was_cut_off_is_trained_again(small: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    start(monkeypatch, tmp_path)
    before, file = lines(tmp_path), tmp_path / "small.jsonl"
    file.write_bytes(file.read_bytes()[:-10])
    repeated = start(monkeypatch, tmp_path)
    assert [job.key for job in repeated] == [json.loads(before[-1])["key"]]
    assert lines(tmp_path)[:-1] == before[:-1]
    assert start(monkeypatch, tmp_path) == []


def test_every_method_has_the_same_stages_of_trials(
    small: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    start(monkeypatch, tmp_path)
    tried = [tuning.trials(SMALL, name, tuning.SHARE, Store(tmp_path), NOWHERE) for name in CHOSEN]
    assert [len(each.scores) for each in tried] == [9, 9, 9]
    assert [each.count for each in tried] == [15, 15, 15] and not any(each.missing for each in tried)
    for each in tried:
        best = sorted(each.scores.values(), reverse=True)[: tuning.REPEATED]
        assert sorted((each.scores[tuned] for tuned in each.repeated), reverse=True) == best
        assert each.repeated[each.best] == max(each.repeated.values())
    assert {len(stage(Tuned(0.1))) for stage in tuning.STAGES.values()} == {tuning.TRIALS}


def test_only_methods_without_a_rank_choose_whether_to_clip(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tasks.TASKS, "small", tasks.TASKS["small"]._replace(clips=(None, 1.0)))
    for name, contender in CONTENDERS.items():
        first = tuning.trials(SMALL, name, 0.4, Store(NOWHERE), NOWHERE)
        assert {job.tuned.clip for job in first.missing} == ({1.0} if contender.ranked else {None, 1.0})


def test_a_setting_that_is_the_best_with_one_seed_but_not_with_others_is_not_used(
    small: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lucky = 0.14

    def scored(job: Job, folder: Path) -> dict[str, Any]:
        accuracy = 0.5 if job.tuned.lr != lucky else 1.0 if job.seed == tuning.SEED else 0.1
        return {"accuracy": accuracy, "seconds": 0.0}

    monkeypatch.setattr(claims, "train", scored)
    benchmark = parts.Benchmark([parts.Wanted(SMALL, "fedavg", 1.0)], 1, Store(tmp_path), NOWHERE)
    claims.complete(benchmark, 1, "test")
    (tuned,) = benchmark.trials().values()
    assert max(tuned.scores, key=tuned.scores.__getitem__).lr == lucky
    assert [each.lr == lucky for each in tuned.repeated] == [True, False, False]
    assert tuned.best.lr != lucky and tuned.repeated[tuned.best] == 0.5


def test_a_target_has_its_own_trials_at_its_share(small: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(parts, "TARGETS", (("fedlora", 0.8),))
    wanted = [parts.Wanted(SMALL, "fedlora", share) for share in (0.4, 0.8)]
    benchmark = parts.Benchmark(wanted, 1, Store(tmp_path), NOWHERE)
    claims.complete(benchmark, 1, "test")
    common, own = benchmark.trials().items()
    assert (common[0].share, own[0].share) == (tuning.SHARE, 0.8)
    trained = [json.loads(line)["config"] for line in lines(tmp_path)]
    assert {each["rank"] for each in trained if each["validation"]} == {rank(tuning.SHARE), rank(0.8)}
    assert len(common[1].scores) == len(own[1].scores) == 9
    runs = [run for each in wanted for run in benchmark.jobs(each, benchmark.trials()[each.tuning].best)]
    assert [(run.rank, run.tuned) for run in runs] == [(rank(0.4), common[1].best), (rank(0.8), own[1].best)]


def rank(share: float) -> int | None:
    return budget.rank(SMALL, "fedlora", None, share, NOWHERE)


def test_trials_never_see_the_test_examples() -> None:
    whole = examples(NOWHERE, 0)
    part = data.validation(whole, 0)
    rows = {tuple(row.tolist()) for row in whole.train["x"]}
    train_rows, held_out = ({tuple(row.tolist()) for row in side["x"]} for side in (part.train, part.test))
    assert train_rows | held_out == rows
    assert len(held_out) == 18 and not train_rows & held_out


def test_settings_for_sentences_are_chosen_on_long_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = fl.data.Dataset("texts", {"length": torch.arange(80), "y": torch.zeros(80).long()}, {}, ("a",))
    monkeypatch.setitem(tasks.TASKS, "long", tasks.TASKS["minilm"]._replace(load=lambda folder, seed: texts))
    held_out = llm_tasks.held_back(texts, seed=0, count=8)
    assert held_out.test["length"].min() >= 60
    assert sorted([*held_out.train["length"].tolist(), *held_out.test["length"].tolist()]) == list(range(80))
    validation = tasks.examples("long", NOWHERE, 0, validation=True)
    assert validation.test["length"].tolist()[:8] == held_out.test["length"].tolist()


def test_the_configuration_names_a_run(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(SMALL, "fedloru-paper", 2, Tuned(0.1), 0)
    others = [job._replace(seed=1), job._replace(rank=3), job._replace(validation=True), job._replace(diagnosed=True)]
    others += [job._replace(tuned=Tuned(0.1, cycle=3)), job._replace(federation=SMALL._replace(alpha=2.0))]
    assert len({each.key for each in [job, *others]}) == 7
    assert job._replace(contender="fedloru-paper-best").key == job.key  # the same run under another label
    task, before = tasks.TASKS["small"], job.key
    monkeypatch.setitem(tasks.TASKS, "small", task._replace(about=task.about | {"batch_size": 8}))
    assert job.key != before


def test_a_run_that_diverges_counts_as_chance(small: None) -> None:
    result = train(Job(SMALL, "fedavg", None, Tuned(1e30), 0), NOWHERE)
    assert result["diverged"] and result["accuracy"] == pytest.approx(1 / 3)


def test_a_run_without_classes_that_diverges_has_no_accuracy(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = tasks.TASKS["small"]._replace(load=lambda folder, seed: examples(folder, seed)._replace(classes=()))
    monkeypatch.setitem(tasks.TASKS, "small", texts)
    result = train(Job(SMALL, "fedavg", None, Tuned(1e30), 0), NOWHERE)
    assert result["diverged"] and result["accuracy"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--part", "a,g"], "g is not one of a, b, c, d, e, f"),
        (["--method", "fedloro"], "fedloro is not one of fedavg"),
        (["--seeds", "0"], "--seeds and --jobs must be at least 1, got 0 and 2"),
    ],
)
def test_wrong_arguments_are_refused(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["claims.py", "--data-dir", "data", *arguments])
    with pytest.raises(SystemExit):
        claims.parse()
    assert message in capsys.readouterr().err


def test_every_part_asks_for_available_contenders_and_known_tasks() -> None:
    for part in parts.PARTS.values():
        for wanted in part():
            assert CONTENDERS[wanted.contender].available
            assert wanted.federation.task in tasks.TASKS
            assert 0 < wanted.federation.cohort <= wanted.federation.clients
