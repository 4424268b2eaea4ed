"""Comparisons from Python: ``fedloru.compare`` reads runs and returns a ``Comparison``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedloru.comparison import groups as grouping
from fedloru.comparison import page, pictures, places, results, texts
from fedloru.comparison.groups import Group
from fedloru.comparison.metric import Metric, check_target, chosen
from fedloru.comparison.results import Results
from fedloru.data import partition_table
from fedloru.errors import RunFolderError
from fedloru.report.plotly_script import is_shared
from fedloru.report.records import Records, read
from fedloru.run.description import echo
from fedloru.run.loop import Run
from fedloru.schema import shown

NOTHING = "there is nothing to compare: name at least two run folders (on the command line, also --config with --vary)"

Source = str | Path | Run
"""A run folder, a folder that contains run folders, or a run."""


def compare(
    runs: Source | Iterable[Source],
    *,
    baseline: str | None = None,
    metric: str | None = None,
    target: float | None = None,
    names: Mapping[str, str] | None = None,
) -> Comparison:
    """Compare runs; those that differ only in the seed form a group, and all groups are compared with a baseline.

    Groups are labelled by their methods and the settings that distinguish them, such as "FedLoRU τ=5". Runs that are
    not finished are left out of a group in which others are. ::

        comparison = fedloru.compare("runs/compare-small", baseline="FedAvg", target=0.9)
        print(comparison.rows[0]["accuracy"])
        comparison.pictures("figures")

    Args:
        runs: run folders, folders that contain run folders, and runs, which need no folder.
        baseline: the label or the method of the group that others are compared with; by default FedAvg, or the first.
        metric: the metric, such as "loss"; by default that of ``eval.best``, if it is set, or the accuracy, or the
            first further metric, or the loss.
        target: a value of the metric, such as 0.9; adds the rounds, MB and seconds until it was reached.
        names: other labels, by label or by method: {"fedloru": "Ours"} changes "FedLoRU τ=5" to "Ours τ=5".

    Raises:
        RunFolderError: there are fewer than two runs, one cannot be read, or none has been evaluated.
        ConfigError: the baseline or one of the names is not that of a group, the metric was not measured, or the target
            is out of range.
    """
    records = records_of([runs] if isinstance(runs, str | Path | Run) else runs)
    return of_records(records, baseline, metric, target, names)


def of_records(
    records: Sequence[Records],
    baseline: str | None = None,
    metric_name: str | None = None,
    target: float | None = None,
    names: Mapping[str, str] | None = None,
) -> Comparison:
    """Compare runs that have been read, as ``compare`` does."""
    if len(records) < 2:
        raise RunFolderError(NOTHING)
    metric = chosen(records, metric_name)
    if target is not None:
        check_target(target, metric)
    with shown("the comparison"):
        groups = grouping.grouped(records, names)
        return Comparison(Results(groups, grouping.baseline(groups, baseline), metric, target))


class Comparison:
    """Groups of runs, compared: as rows, as text, as pictures and as a page."""

    def __init__(self, results: Results) -> None:
        self.results = results

    def __repr__(self) -> str:
        labels = ", ".join(group.label for group in self.groups)
        return f"<Comparison of {page.title_of(self.results)}: {labels}>"

    @property
    def groups(self) -> Sequence[Group]:
        """The groups of runs, each with its ``label`` and its ``runs``."""
        return self.results.groups

    @property
    def metric(self) -> Metric:
        """The metric that the runs are compared by."""
        return self.results.metric

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One dictionary of plain values per group: means, standard deviations and differences from the baseline.

        Scores are as they were recorded, such as fractions of 1; MB are 10⁶ bytes. A value that does not exist is None.
        """
        return results.rows(self.results)

    @property
    def cautions(self) -> list[str]:
        """Sentences about differences that make the groups hard to compare."""
        return list(grouping.cautions(self.groups))

    def latex(self) -> str:
        """Return the tables of means and of paired differences as LaTeX, which needs booktabs and graphicx."""
        return texts.latex(self.results)

    def markdown(self) -> str:
        """Return the tables of means and of paired differences as Markdown."""
        return texts.markdown(self.results)

    def csv(self) -> str:
        """Return ``rows`` as CSV."""
        return texts.table_csv(self.results)

    def rounds(self) -> str:
        """Return one line of CSV per round of each run; MB and seconds are cumulative."""
        return texts.rounds_csv(self.results)

    def pictures(self, place: str | Path) -> list[Path]:
        """Write the metric against rounds and against MB, as means with their 95 % intervals over seeds.

        Args:
            place: a folder, which gets each picture as PDF, PNG and SVG; or a file with one of these endings, which
                gets both as panels of one picture.

        Raises:
            MissingExtraError: matplotlib is not installed.
            RunFolderError: a file is in a run folder, or would replace a file that is not such a picture.
            OSError: the place is not writable.
        """
        return pictures.write_pictures(self.results, Path(place))

    def page(self, path: str | Path) -> Path:
        """Write a self-contained HTML page that links to the pages of the runs, and return its path.

        Raises:
            RunFolderError: the file is in a run folder, or would replace a file that is not such a page.
            OSError: the folder is not writable.
        """
        file = Path(path)
        with shown("the comparison"):
            return places.write(file, page.page(self.results, file.parent), "page")


def records_of(runs: Iterable[Source]) -> list[Records]:
    """Read the runs, each once.

    Raises:
        RunFolderError: one cannot be read.
    """
    return list(_distinct(runs))


def _distinct(runs: Iterable[Source]) -> Iterator[Records]:
    seen: set[Path] = set()
    for number, run in enumerate(runs, 1):
        if isinstance(run, Run) and run.folder is None:
            yield _of_run(run, number)
            continue
        for folder in _folders(run.folder.path if isinstance(run, Run) and run.folder else Path(str(run))):
            if folder.resolve() not in seen:
                seen.add(folder.resolve())
                yield read(folder)


def _folders(path: Path) -> list[Path]:
    """Return the run folders that ``path`` stands for; one that is no run folder is returned, for its error."""
    if is_shared(path):
        return []
    inside = (
        [] if places.is_run(path) or not path.is_dir() else [each for each in path.iterdir() if places.is_run(each)]
    )
    return sorted(inside) or [path]


def _of_run(run: Run, number: int) -> Records:
    """Return the records of a run that has no folder."""
    return Records(
        Path(f"run {number}"),
        echo(run.plan),
        partition_table(run.plan.partition),
        list(run.rows),
        run.summary() if run.ended else {},
        start=run.start or {},
    )
