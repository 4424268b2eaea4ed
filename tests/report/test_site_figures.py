from fedloru.report import Records, site_figures, style
from fedloru.report.page import page


def ranks(records: Records, kind: str = "effective"):
    return site_figures.figure(records, site_figures.ranks(records, kind))


def test_ranks_have_one_line_per_site_in_descending_order(records: Records) -> None:
    totals, increments = ranks(records).data[:2], ranks(records).data[2:]
    assert [line.name for line in totals] == [line.name for line in increments] == ["fc2", "fc1"]
    assert list(totals[0].x) == [10, 20, 30, 40, 50] and list(totals[1].y) == [2.0, 4.0, 6.0, 8.0, 10.0]
    assert set(increments[1].y) == {3.0}


def test_stable_ranks_have_their_own_figure_if_measured(records: Records) -> None:
    assert site_figures.kinds(records) == ["effective", "stable"]
    assert list(ranks(records, "stable").data[0].y) == [2 * t / 9 for t in (10, 20, 30, 40, 50)]
    old = [row | {"sites": {"fc1.weight": {"effective_rank_total": 4.0}}} for row in records.rounds]
    assert site_figures.kinds(records._replace(rounds=old)) == ["effective"]


def test_only_the_sites_with_the_largest_ranks_are_plotted(records: Records) -> None:
    sites = {f"model.layers.{n}.q.weight": {"effective_rank_total": float(n)} for n in range(30)}
    many = records._replace(rounds=[row | {"sites": sites} for row in records.rounds])
    lines = ranks(many).data
    assert [line.name for line in lines] == [f"{n}.q" for n in range(29, 29 - len(style.CLASSES), -1)]
    assert lines[0].hovertemplate.startswith("model.layers.29.q.weight<br>")
    caption = site_figures.caption(many, "Ranks")
    assert "10 of 30 sites" in caption and 'without "model.layers."' in caption


def test_overlaps_of_column_and_row_spaces_have_separate_subplots(records: Records) -> None:
    assert not site_figures.overlaps(records)
    overlap = {"overlap_columns": 0.7, "overlap_rows": 0.1}
    rows = [
        row | {"sites": {site: values | overlap for site, values in row["sites"].items()}}
        if row["version"] > 1
        else row
        for row in records.rounds
    ]
    measured = records._replace(rounds=rows)
    columns, *_, last = site_figures.figure(measured, site_figures.overlaps(measured)).data
    assert set(columns.y) == {0.7} and set(last.y) == {0.1} and columns.yaxis != last.yaxis
    assert min(columns.x) == 20


def test_ranks_of_fewer_than_three_rounds_are_a_table(records: Records) -> None:
    rows = [row | {"sites": {}} for row in records.rounds[:3]]
    rows[0] |= {"sites": {"fc1.weight": {"effective_rank_total": 4.0, "effective_rank_client": 1.0}}}
    rows[2] |= {"sites": {"fc1.weight": {"effective_rank_total": 5.0}, "fc2.weight": {"effective_rank_total": 6.0}}}
    run = records._replace(rounds=rows)
    fields = site_figures.ranks(run, "effective")
    assert not site_figures.is_trend(run, fields)
    assert site_figures.table(run, fields) == (
        ["site", "Wₜ − W₀, round 1", "Wₜ − W₀, round 3", "client update, round 1"],
        [["fc2", "–", "6.00", "–"], ["fc1", "4.00", "5.00", "1.00"]],
    )
    assert "Wₜ − W₀, round 3" in page(run)
