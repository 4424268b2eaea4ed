"""Groups of runs: runs that differ only in seeds form a group, and the other differing settings form its label."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from fedloru.report.records import Records
from fedloru.schema import FEDERATION
from fedloru.settings import short

FORMS = ("method.name", "model.name", "data.source", "partition.scheme", "server.rule")
"""The settings that select the form of a section; settings of two different forms are not compared."""

BY_SEED = frozenset({"seed", "partition.seed", "model.seed", "cohort.seed", "model.hash", "data.date"})
"""Settings that may differ within a group; not ``data.seed``, which determines the test examples.

``data.date`` is the time at which a run started, if its chat template prints the date.
"""

Settings = dict[str, Any]


class Group(NamedTuple):
    """Runs of one configuration, sorted by seed; ``label`` distinguishes it from the other groups."""

    label: str
    settings: Settings
    runs: tuple[Records, ...]

    @property
    def counted(self) -> tuple[Records, ...]:
        """The runs that enter the results: the finished ones, or all runs if none has finished."""
        return tuple(run for run in self.runs if run.summary) or self.runs


def grouped(runs: Iterable[Records]) -> list[Group]:
    """Return the groups of ``runs``, in order of their first run."""
    by_settings: dict[str, tuple[Settings, list[Records]]] = {}
    for run in runs:
        settings = _settings(run.config)
        by_settings.setdefault(json.dumps(settings, sort_keys=True), (settings, []))[1].append(run)
    configurations = [settings for settings, _ in by_settings.values()]
    differing = _differing(configurations)
    return [
        Group(_label(settings, differing, configurations), settings, tuple(sorted(members, key=seed)))
        for settings, members in by_settings.values()
    ]


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
    return {key: value for key, value in flat.items() if key not in BY_SEED and not key.startswith("output.")}


def _differing(configurations: Sequence[Settings]) -> list[str]:
    """Return the settings that distinguish groups: first those in ``FORMS``, then the others that differ."""
    keys = dict.fromkeys([*FORMS, *(key for settings in configurations for key in settings)])
    return [key for key in keys if any(_differ(key, one, other) for one in configurations for other in configurations)]


def _differ(key: str, one: Settings, other: Settings) -> bool:
    """Return whether ``key`` distinguishes two groups; the settings of two methods may only have a name in common."""
    if key in one and key in other:
        own = key.startswith("method.") and key not in FORMS
        return bool(one[key] != other[key]) and (not own or _same_form(key, one, other))
    return (key in one or key in other) and _same_form(key, one, other)


def _same_form(key: str, one: Settings, other: Settings) -> bool:
    selectors = [form for form in FORMS if form.split(".")[0] in (key.split(".")[0], "method")]
    return all(one.get(form) == other.get(form) for form in selectors)


def _label(settings: Settings, differing: Sequence[str], configurations: Sequence[Settings]) -> str:
    short_names = [_last(key) for key in differing]
    parts = []
    for key in differing:
        name = key if short_names.count(_last(key)) > 1 else _last(key).replace("_", " ")
        if key in settings:
            parts.append(_form(key, settings, configurations) if key in FORMS else f"{name} {_format(settings[key])}")
        elif any(key in other and _same_form(key, settings, other) for other in configurations):
            parts.append(f"no {name}")
    return ", ".join(parts) or short(str(settings.get("method.name", "runs")))


def _form(key: str, settings: Settings, configurations: Sequence[Settings]) -> str:
    """Return the name of a form as it is displayed: short, unless that of another form is the same."""
    name = str(settings[key])
    others = {str(other[key]) for other in configurations if key in other} - {name}
    return name if short(name) in map(short, others) else short(name)


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _format(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def _which_differ(keys: Sequence[str]) -> str:
    return f"{_listed(keys)} {'differs' if len(keys) == 1 else 'differ'}"


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(map(str, values))
