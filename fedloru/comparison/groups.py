"""Groups of runs: runs that differ only in seeds form a group, which is labelled by what distinguishes it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from fedloru.comparison.labels import SOURCE, Settings, labels, of_method
from fedloru.errors import ConfigError, choices, quoted
from fedloru.report.records import Records
from fedloru.schema import FEDERATION

FEDAVG = "fedavg"
"""The method that others are compared with by default."""

BY_SEED = frozenset({"seed", "partition.seed", "model.seed", "cohort.seed", "model.hash", "data.date"})
"""Settings that may differ within a group; not ``data.seed``, which determines the test examples.

``data.date`` is the time at which a run started, if its chat template prints the date.
"""


LATER = frozenset({"data.task"})
"""Settings of the data that runs of earlier versions did not record: their data may be the same."""


class Group(NamedTuple):
    """Runs of one configuration, sorted by seed; ``label`` distinguishes it from the other groups."""

    label: str
    settings: Settings
    runs: tuple[Records, ...]

    @property
    def counted(self) -> tuple[Records, ...]:
        """The runs that enter the results: the finished ones, or all runs if none has finished."""
        return tuple(run for run in self.runs if run.summary) or self.runs


def grouped(runs: Iterable[Records], names: Mapping[str, str] | None = None) -> list[Group]:
    """Return the groups of ``runs``, in order of their first run.

    ``names`` replaces labels, or the names of methods in them.

    Raises:
        ConfigError: a key of ``names`` is neither a label nor a method, or two groups would have the same label.
    """
    by_settings: dict[str, tuple[Settings, list[Records]]] = {}
    for run in runs:
        settings = _settings(run.config)
        by_settings.setdefault(json.dumps(settings, sort_keys=True), (settings, []))[1].append(run)
    found = labels([settings for settings, _ in by_settings.values()], names or {})
    return [
        Group(label, settings, tuple(sorted(members, key=seed)))
        for label, (settings, members) in zip(found, by_settings.values(), strict=True)
    ]


def baseline(groups: Sequence[Group], label: str | None = None) -> Group:
    """Return the group called ``label``, which is a label or a method; by default, the first of FedAvg, or the first.

    Raises:
        ConfigError: there is no such group, or several.
    """
    if label is None:
        return next((group for group in groups if group.settings.get("method.name") == FEDAVG), groups[0])
    exact = [group for group in groups if group.label == label]
    found = exact or [group for group in groups if label in of_method(group.settings)]
    if len(found) != 1:
        problem = "is the method of several groups" if found else "is not a group of runs"
        raise ConfigError(
            [f"the baseline {quoted(label)} {problem}{choices(label, (g.label for g in groups))}"], SOURCE
        )
    return found[0]


def seed(run: Records) -> int:
    """Return the seed of a run."""
    return int(run.config.get("seed", 0))


def differences(groups: Sequence[Group]) -> dict[str, list[Any]]:
    """Return the settings that differ between ``groups``, with the value in each group, or None if it is not set."""
    keys = dict.fromkeys(key for group in groups for key in group.settings)
    values = {key: [group.settings.get(key) for group in groups] for key in keys}
    return {key: row for key, row in values.items() if any(value != row[0] for value in row)}


def cautions(groups: Sequence[Group]) -> Iterator[str]:
    """Yield warnings about differences that make the groups hard to compare."""
    yield from _different_data(groups)
    for group in groups:
        seeds = [seed(run) for run in group.runs]
        if repeated := sorted({value for value in seeds if seeds.count(value) > 1}):
            yield (
                f"{group.label} has several runs with seed {_listed(repeated)}, "
                "so its standard deviation does not measure variation across seeds."
            )
        for run in group.runs:
            if not run.summary:
                rounds = f"{len(run.rounds)} of {run.config.get('rounds', '?')} rounds"
                excluded = ", and is excluded from the results" if run not in group.counted else ""
                yield f"{run.name} ({group.label}, seed {seed(run)}) is not finished: it has {rounds}{excluded}."


def _different_data(groups: Sequence[Group]) -> Iterator[str]:
    changed = differences(groups)
    runs = [run for group in groups for run in group.runs]
    if any(run.partition.get("scheme") == FEDERATION for run in runs):
        yield "Some runs have real clients, whose data is not recorded: it may differ between the runs."
    changed = {key: values for key, values in changed.items() if key not in LATER or None not in values}
    data = [key for key in changed if key.startswith("data.") or key == "eval.examples"]
    if data:
        yield f"The runs use different data sets ({_which_differ(data)}): their accuracies are not comparable."
        return
    by_seed: dict[int, set[str]] = {}
    for run in runs:
        by_seed.setdefault(seed(run), set()).add(str(run.partition.get("hash")))
    settings = [key for key in changed if key.startswith("partition.")]
    if settings or any(len(hashes) > 1 for hashes in by_seed.values()):
        reason = f" ({_which_differ(settings)})" if settings else ", even with the same seed"
        yield f"The runs have different partitions of the data{reason}: clients do not hold the same examples."


def _settings(config: Mapping[str, Any]) -> Settings:
    flat: Settings = {}
    for name, value in config.items():
        flat |= {f"{name}.{key}": inner for key, inner in value.items()} if isinstance(value, dict) else {name: value}
    return {
        key: value for key, value in flat.items() if key not in BY_SEED and not key.startswith(("output.", "track."))
    }


def _which_differ(keys: Sequence[str]) -> str:
    return f"{_listed(keys)} {'differs' if len(keys) == 1 else 'differ'}"


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(map(str, values))
