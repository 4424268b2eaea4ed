"""Numbers against independent computations: intervals and tests against scipy, rows and files against the runs."""

import csv
import io
from statistics import fmean, stdev

import pytest
from scipy import stats

from fedloru.comparison import texts
from fedloru.comparison.groups import Group, grouped
from fedloru.comparison.metric import Metric, check_target, chosen
from fedloru.comparison.paired import difference, half_width
from fedloru.comparison.results import differences, rows, table
from fedloru.errors import ConfigError
from fedloru.report import Records

from .made_up import results, variant

VALUES = {0: 0.91, 1: 0.88, 2: 0.95, 5: 0.90}
OTHERS = {0: 0.90, 1: 0.89, 2: 0.93, 7: 0.10}


def test_intervals_and_tests_equal_those_of_scipy() -> None:
    found = difference(VALUES, OTHERS)
    ours, theirs = [VALUES[seed] for seed in (0, 1, 2)], [OTHERS[seed] for seed in (0, 1, 2)]
    expected = stats.ttest_rel(ours, theirs)
    interval = expected.confidence_interval(0.95)
    assert found.seeds == (0, 1, 2) and found.interval is not None
    assert found.mean == pytest.approx(fmean(ours) - fmean(theirs))
    assert found.interval == pytest.approx((interval.low, interval.high))
    assert found.p == pytest.approx(expected.pvalue)
    low, high = stats.t.interval(0.95, 3, fmean(VALUES.values()), stats.sem(list(VALUES.values())))
    assert half_width(list(VALUES.values())) == pytest.approx((high - low) / 2)


def test_without_two_shared_seeds_there_is_no_interval_and_no_test() -> None:
    assert difference({0: 2.0}, {0: 1.5, 1: 9.0}) == ((0,), 0.5, None, None)
    assert difference({0: 2.0}, {1: 1.5}) == ((), None, None, None)
    equal = difference({0: 0.3, 1: 0.4, 2: 0.7}, {0: 0.1, 1: 0.2, 2: 0.5})  # up to rounding
    assert equal.p is None and equal.interval == pytest.approx((0.2, 0.2))


def test_rows_have_the_numbers_of_the_runs(groups: list[Group], records: Records) -> None:
    first, second = rows(results(groups, 0.5, "FedLoRA"))
    finals = [run.rounds[-1]["test_accuracy"] for run in groups[0].runs]
    assert (first["group"], first["seeds"], first["baseline"]) == ("FedLoRU", [0, 1, 2], "FedLoRA")
    assert first["accuracy"] == pytest.approx(fmean(finals)) and first["accuracy_std"] == pytest.approx(stdev(finals))
    assert first["bytes"] == first["up_bytes"] + first["down_bytes"]
    assert first["accuracy_difference"] == pytest.approx(0.1) and first["accuracy_pairs"] == 1
    assert first["accuracy_p"] is None and first["accuracy_difference_low"] is None
    assert first["bytes_difference"] == records.rounds[-1]["up_bytes_total"] / 2
    assert first["bytes_to_target"] < first["bytes"] and first["bytes_to_target_runs"] == 3
    assert second["accuracy_difference"] is None and second["accuracy_std"] is None


def test_differences_are_tested_over_shared_seeds(records: Records) -> None:
    gains = {"fedavg": (0.0, 0.03, 0.01), "fedloru": (0.02, 0.04, 0.05)}
    runs = [variant(records, seed, name, gain) for name, each in gains.items() for seed, gain in enumerate(each)]
    made = results(grouped(runs))
    expected = stats.ttest_rel(gains["fedloru"], gains["fedavg"])
    text = differences(made)
    assert text is not None
    assert text.rows[0][:4] == ["FedLoRU", "accuracy, points", "0, 1, 2", "+2.3"]
    assert text.rows[0][5] == f"{expected.pvalue:.3f}" and text.rows[1][3:] == ["0", "[0, 0]", "–"]
    assert "from FedAvg" in text.caption and "Fewer" not in text.caption
    assert rows(made)[1]["accuracy_p"] == pytest.approx(expected.pvalue)


@pytest.mark.parametrize(("evaluated", "title"), [(9, "last 5, %"), (3, "last 3, %"), (1, None)])
def test_the_mean_of_the_last_evaluations_says_of_how_many(records: Records, evaluated: int, title: str | None) -> None:
    scored = [row for row in records.rounds if row["test_accuracy"] is not None]
    made = results(grouped([records._replace(rounds=scored[:evaluated])]))
    assert [head for head in table(made).head if head.startswith("last")] == [title] * (title is not None)
    last = [row["test_accuracy"] for row in scored[:evaluated][-5:]]
    assert rows(made)[0]["last5_accuracy"] == pytest.approx(fmean(last))


def test_a_single_group_has_no_differences(records: Records) -> None:
    assert differences(results(grouped([records]))) is None


def test_a_metric_to_minimize_has_no_percentages_and_reaches_targets_from_above(groups: list[Group]) -> None:
    hidden = [
        run._replace(rounds=[row | {"test_accuracy": None, "personal": None} for row in run.rounds])
        for group in groups
        for run in group.runs
    ]
    assert chosen(hidden).key == "loss"
    made = results(grouped(hidden), 0.5)
    head, lines, _ = table(made)
    cells = dict(zip(head, lines[0], strict=True))
    last = hidden[0].rounds[-1]["test_loss"]
    first = next(row["round"] for row in hidden[0].rounds if (row["test_loss"] or 9) <= 0.5)
    assert cells["final loss (nats)"] == f"{last:.3g} ± 0" and cells["rounds to 0.5"].startswith(f"{first}")
    assert "loss" in texts.rounds_csv(made).splitlines()[0].split(",")


def with_metric(run: Records, key: str, best: str | None = None) -> Records:
    rows = [row | {f"test_{key}": row["test_loss"]} for row in run.rounds]
    return run._replace(rounds=rows, config=run.config | {"eval": {"best": best} if best else {}})


def test_the_main_metric_is_the_one_that_a_run_chooses(records: Records) -> None:
    assert chosen([records]).key == "accuracy"
    assert chosen([with_metric(records, "auc", "lowest loss")]).key == "accuracy"
    assert chosen([records, with_metric(records, "auc", "highest auc")]).key == "auc"
    no_accuracy = [row | {"test_accuracy": None} for row in records.rounds]
    regression = records._replace(rounds=no_accuracy, summary=records.summary | {"task": "regression"})
    assert chosen([regression]).name == "mean squared error"
    assert chosen([with_metric(regression, "rmse")]) == ("rmse", "RMSE", False, False)


def test_a_balanced_accuracy_is_shown_in_percent(records: Records) -> None:
    metric = chosen([with_metric(records, "balanced_accuracy")], "balanced_accuracy")
    assert metric.is_share and metric.unit() == ", %" and metric.written(0.9) == "90 %"


def test_the_direction_of_a_metric_is_that_of_the_run_or_known(records: Records) -> None:
    assert not chosen([with_metric(records, "error", "lowest error")], "error").higher_is_better
    assert chosen([with_metric(records, "gain")], "gain").higher_is_better
    assert not chosen([with_metric(records, "mae")], "mae").higher_is_better
    with pytest.raises(ConfigError, match=r"'AUC' was not measured by any of the runs; did you mean|There are"):
        chosen([with_metric(records, "auc")], "AUC")


@pytest.mark.parametrize("target", [0, 90, -1, float("nan")])
def test_a_target_is_a_possible_value(target: float) -> None:
    with pytest.raises(ConfigError, match="the target is"):
        check_target(target, Metric("accuracy", "accuracy", higher_is_better=True, is_share=True))


def test_the_rounds_have_one_line_per_run_and_round(groups: list[Group], records: Records) -> None:
    lines = list(csv.DictReader(io.StringIO(texts.rounds_csv(results(groups)))))
    assert len(lines) == 4 * 50 and list(lines[0])[:4] == ["group", "seed", "round", "accuracy"]
    last = records.rounds[-1]
    assert lines[49] == {
        "group": "FedLoRU",
        "seed": "0",
        "round": "50",
        "accuracy": str(last["test_accuracy"]),
        "loss": str(last["test_loss"]),
        "up_mb": str(last["up_bytes_total"] / 1e6),
        "down_mb": str(last["down_bytes_total"] / 1e6),
        "seconds": str(round(sum(row["seconds"] for row in records.rounds), 6)),
    }
    assert lines[2]["accuracy"] == ""


def test_the_table_as_csv_has_the_rows(groups: list[Group]) -> None:
    made = results(groups, 0.9)
    read = list(csv.DictReader(io.StringIO(texts.table_csv(made))))
    for line, row in zip(read, rows(made), strict=True):
        assert line["seeds"] == " ".join(map(str, row["seeds"]))
        assert {k: v for k, v in line.items() if k != "seeds"} == {
            k: "" if v is None else str(v) for k, v in row.items() if k != "seeds"
        }
