import pytest

from fedloru.report import Records, diagnostics
from fedloru.report.page import page
from fedloru.report.records import Records as Run


def with_diagnostics(records: Run, values: list[dict[str, float | None]]) -> Run:
    """Return the first rounds of a run with other diagnostics."""
    rounds = [row | {"diagnostics": found} for row, found in zip(records.rounds, values, strict=False)]
    return records._replace(rounds=rounds)


def test_captions_say_which_rounds_have_diagnostics(records: Records) -> None:
    rounds, recorded = len(records.rounds), [row for row in records.rounds if row.get("sites")]
    assert diagnostics.coverage(records._replace(rounds=recorded)) == ""
    some = [row if row["round"] % 10 == 0 else row | {"diagnostics": {}, "sites": {}} for row in records.rounds]
    sentence = f"Recorded in {rounds // 10} of {rounds} rounds, so that diagnostics take about 1 % of the work; "
    assert diagnostics.coverage(records._replace(rounds=some)).startswith(sentence)


def test_each_diagnostic_has_its_own_figure(records: Records) -> None:
    trends = diagnostics.trends(diagnostics.measured(records))
    assert list(trends) == ["aggregation gap", "update norm"]
    (line,) = diagnostics.figure(records, trends["aggregation gap"]).data
    assert list(line.y) == [row["diagnostics"]["aggregation_gap"] for row in records.rounds]
    assert list(line.x) == [row["round"] for row in records.rounds]


def test_the_losses_before_and_after_merges_share_a_figure(records: Records) -> None:
    losses = {"loss_before_merge": 0.5, "loss_after_merge": 0.4}
    rows = [row | {"diagnostics": losses if row["merged"] else {}} for row in records.rounds]
    (series,) = diagnostics.trends(diagnostics.measured(records._replace(rounds=rows))).values()
    before, after = diagnostics.figure(records, series).data
    assert list(before.x) == list(after.x) == [10, 20, 30, 40, 50]
    assert (before.y[0], after.y[0]) == (0.5, 0.4)


def test_fewer_than_three_rounds_are_a_table(records: Records) -> None:
    run = with_diagnostics(records, [{"update_cosine": 0.25, "drift": 3.0}, {}, {"update_cosine": -0.5, "drift": None}])
    measured = diagnostics.measured(run)
    assert diagnostics.trends(measured) == {}
    assert diagnostics.table(measured) == (
        ["", "round 1", "round 3"],
        [["drift", "3", "–"], ["update cosine", "0.25", "-0.5"]],
    )
    text = page(run)
    assert 'id="update-cosine"' not in text and "round 3" in text


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ([1.4e-25, 2.5e-27, 3e-33], "Aggregation gap: 0, exact to rounding, in all 3 measured rounds (at most 1e-25)."),
        ([1e-33], "Aggregation gap: 0, exact to rounding, in the measured round (at most 1e-33)."),
        ([0.0, 0.0], "Aggregation gap: 0 in all 2 measured rounds."),
        ([0.1 + 0.2, 0.3, 0.3], "Aggregation gap: 0.3 in all 3 measured rounds, to rounding."),
        ([0.3, 0.3], ""),
        ([1e-9, 2e-9, 3e-9], ""),
    ],
)
def test_values_that_are_constant_to_rounding_are_a_sentence(
    records: Records, values: list[float], sentence: str
) -> None:
    run = with_diagnostics(records, [{"aggregation_gap": value} for value in values])
    assert diagnostics.constants(diagnostics.measured(run)).get("aggregation_gap", "") == sentence
    assert ('id="aggregation-gap"' in page(run)) == (len(values) > 2 and not sentence)
