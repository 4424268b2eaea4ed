from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest

from fedloru.report import Records, figures, partition_figure, read
from fedloru.report.class_counts import ClassCounts
from fedloru.report.records import evaluations

from .made_up import write_run


def test_accuracy_matches_the_records(records: Records) -> None:
    line, _ = figures.accuracy(records).data
    rows = evaluations(records)
    assert list(line.x) == [row["round"] for row in rows]
    assert list(line.y) == [row["test_accuracy"] for row in rows]
    assert None not in line.y


def test_merges_are_marked_at_their_rounds(records: Records) -> None:
    for plot in (figures.accuracy, figures.loss):
        merge = plot(records).data[-1]
        assert list(merge.x[::3]) == list(merge.x[1::3]) == [10, 20, 30, 40, 50]
        assert list(merge.customdata[::3]) == [1, 2, 3, 4, 5]


def test_without_merges_nothing_is_marked(tmp_path: Path) -> None:
    figure = figures.accuracy(read(write_run(tmp_path / "run", rounds=3)))
    assert [trace.name for trace in figure.data] == ["test accuracy"]


def test_loss_matches_the_records(records: Records) -> None:
    train, test, _ = figures.loss(records).data
    assert list(train.y) == [row["train_loss"] for row in records.rounds]
    assert list(test.x) == [row["round"] for row in evaluations(records, "test_loss")]


def test_accuracy_over_bytes_uses_the_megabytes_of_both_directions(records: Records) -> None:
    (line,) = figures.accuracy_over_bytes(records).data
    last = records.rounds[-1]
    assert line.x[-1] == (last["up_bytes_total"] + last["down_bytes_total"]) / 1e6
    assert list(line.customdata) == [row["round"] for row in evaluations(records)]


def test_loss_over_bytes_uses_the_same_bytes_as_accuracy(records: Records) -> None:
    (line,) = figures.loss_over_bytes(records).data
    assert list(line.y) == [row["test_loss"] for row in evaluations(records, "test_loss")]
    assert list(line.x) == list(figures.accuracy_over_bytes(records).data[0].x)


def test_bytes_by_kind_add_up(records: Records) -> None:
    figure = figures.bytes_by_kind(records)
    for way in ("down", "up"):
        traces = {trace.legendgroup: trace for trace in figure.data if trace.stackgroup == way}
        assert sum(trace.y[-1] for trace in traces.values()) == pytest.approx(
            records.rounds[-1][f"{way}_bytes_total"] / 1e6
        )
        factors = accumulate((row["bytes"][way]["factors"] for row in records.rounds), initial=0)
        assert list(traces["factors"].y) == [n / 1e6 for n in factors]
    assert sum(trace.showlegend for trace in figure.data) == len({trace.legendgroup for trace in figure.data})


def test_personal_accuracy_matches_the_records(records: Records) -> None:
    shared, worst, personal, _ = figures.personal(records).data
    tested = [row for row in records.rounds if row["personal"]]
    assert list(shared.x) == list(worst.x) == [row["round"] for row in tested]
    assert list(personal.y) == [row["personal"]["personal"]["mean"] for row in tested]
    assert list(worst.y) == [row["personal"]["shared"]["bottom_decile"] for row in tested]


def test_without_personal_models_only_the_shared_one_is_plotted(records: Records) -> None:
    rows = [
        row | {"personal": {"shared": row["personal"]["shared"]} if row["personal"] else None} for row in records.rounds
    ]
    assert [line.name for line in figures.personal(records._replace(rounds=rows)).data] == [
        "shared model",
        "shared, worst 10 %",
    ]


def test_few_clients_are_a_bar_chart(records: Records) -> None:
    figure, counts = partition_figure.skew(records), records.partition["counts"]
    assert [list(bar.x) for bar in figure.data] == list(map(list, zip(*counts, strict=True)))
    assert "20 clients" in partition_figure.caption(records)


@pytest.mark.parametrize(("clients", "classes", "columns"), [(60, 10, 60), (3_000, 10, 240), (20, 100, 20)])
def test_many_clients_or_classes_are_a_heat_map(tmp_path: Path, clients: int, classes: int, columns: int) -> None:
    records = read(write_run(tmp_path / "run", rounds=3, clients=clients, classes=classes))
    sizes, shares = partition_figure.skew(records).data
    counts = records.partition["counts"]
    assert len(shares.z) == classes and len(shares.z[0]) == columns == len(set(sizes.customdata))
    assert [sum(counts[client]) for client in sizes.customdata] == list(sizes.y)
    top_classes = [counts[client].index(max(counts[client])) for client in sizes.customdata]
    assert top_classes == sorted(top_classes)
    assert f"{columns}" in partition_figure.caption(records) and (f"{clients:,}" in partition_figure.caption(records))


def test_counts_of_arrays_equal_a_table_of_counts() -> None:
    rng = np.random.default_rng(0)
    for clients, classes in ((1, 1), (5, 3), (400, 10)):
        sizes = rng.integers(0, 6, clients)
        labels = rng.integers(0, classes, sizes.sum())
        counts = ClassCounts(labels, sizes, classes)
        parts = np.split(labels, np.cumsum(sizes)[:-1])
        table = [np.bincount(part, minlength=classes).tolist() for part in parts]
        assert list(counts) == list(ClassCounts.of(table)) == table and len(counts) == clients
        keys = [(row.index(max(row)), -max(row) / max(sum(row), 1)) for row in table]
        assert counts.by_top_class().tolist() == sorted(range(clients), key=keys.__getitem__)
    for wrong in (
        (np.array([0, 1]), np.array([1])),
        (np.array([3]), np.array([1])),
        (np.array([0]), np.array([2, -1])),
    ):
        with pytest.raises(ValueError, match="labels"):
            ClassCounts(*wrong, 2)


def test_examples_without_classes_are_bars_of_one_color(records: Records) -> None:
    counts = [[5], [7]]
    (bar,) = partition_figure.skew(records._replace(partition={"counts": counts, "classes": []})).data
    assert list(bar.x) == [5, 7]
