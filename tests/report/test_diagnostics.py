from fedloru.report import Records, diagnostics, style


def test_ranks_have_one_line_per_site_in_descending_order(records: Records) -> None:
    totals, increments = diagnostics.ranks(records).data[:2], diagnostics.ranks(records).data[2:]
    assert [line.name for line in totals] == [line.name for line in increments] == ["fc2", "fc1"]
    assert list(totals[0].x) == [10, 20, 30, 40, 50] and list(totals[1].y) == [2.0, 4.0, 6.0, 8.0, 10.0]
    assert set(increments[1].y) == {3.0}


def test_stable_ranks_have_their_own_figure_if_measured(records: Records) -> None:
    assert diagnostics.kinds(records) == ["effective", "stable"]
    assert list(diagnostics.ranks(records, "stable").data[0].y) == [2 * t / 9 for t in (10, 20, 30, 40, 50)]
    assert "Stable rank (sum of the squared" in diagnostics.caption(records, "stable")
    old = [row | {"sites": {"fc1.weight": {"effective_rank_total": 4.0}}} for row in records.rounds]
    assert diagnostics.kinds(records._replace(rounds=old)) == ["effective"]


def test_only_the_sites_with_the_largest_ranks_are_plotted(records: Records) -> None:
    sites = {f"layer{n}.weight": {"effective_rank_total": float(n)} for n in range(30)}
    many = records._replace(rounds=[row | {"sites": sites} for row in records.rounds])
    names = [line.name for line in diagnostics.ranks(many).data]
    assert names == [f"layer{n}" for n in range(29, 29 - len(style.CLASSES), -1)]
    assert "10 of 30 sites" in diagnostics.caption(many)


def test_captions_say_which_rounds_have_diagnostics(records: Records) -> None:
    rounds, recorded = len(records.rounds), [row for row in records.rounds if row.get("sites")]
    assert diagnostics.coverage(records._replace(rounds=recorded)) == ""
    some = [row if row["round"] % 10 == 0 else row | {"diagnostics": {}, "sites": {}} for row in records.rounds]
    sentence = f"Recorded in {rounds // 10} of {rounds} rounds, so that diagnostics take about 1 % of the work; "
    assert sentence in diagnostics.caption(records._replace(rounds=some))


def test_overlaps_of_column_and_row_spaces_have_separate_subplots(records: Records) -> None:
    assert not diagnostics.compared(records)
    overlap = {"overlap_columns": 0.7, "overlap_rows": 0.1}
    rows = [
        row | {"sites": {site: values | overlap for site, values in row["sites"].items()}}
        if row["version"] > 1
        else row
        for row in records.rounds
    ]
    measured = records._replace(rounds=rows)
    assert diagnostics.compared(measured)
    columns, *_, last = diagnostics.overlaps(measured).data
    assert set(columns.y) == {0.7} and set(last.y) == {0.1} and columns.yaxis != last.yaxis
    assert min(columns.x) == 20


def test_ranks_measured_once_are_a_bar_chart(records: Records) -> None:
    rows = [row | {"sites": {}} for row in records.rounds[:-1]]
    last = records.rounds[-1] | {"sites": {"fc1.weight": {"effective_rank_total": 4.0}, "fc2.weight": {}}}
    (bar,) = diagnostics.ranks(records._replace(rounds=[*rows, last])).data
    assert (list(bar.y), list(bar.x)) == (["fc1"], [4.0])


def test_each_diagnostic_has_its_own_subplot(records: Records) -> None:
    gap, norm = diagnostics.diagnostics(records).data
    assert list(gap.y) == [row["diagnostics"]["aggregation_gap"] for row in records.rounds]
    assert gap.yaxis != norm.yaxis


def test_the_losses_before_and_after_merges_share_a_subplot(records: Records) -> None:
    losses = {"loss_before_merge": 0.5, "loss_after_merge": 0.4}
    rows = [row | {"diagnostics": losses if row["merged"] else {}} for row in records.rounds]
    before, after = diagnostics.diagnostics(records._replace(rounds=rows)).data
    assert before.yaxis == after.yaxis and list(before.x) == [10, 20, 30, 40, 50]
    assert (before.y[0], after.y[0]) == (0.5, 0.4)
