"""Runs in groups: what differs only by its seed belongs together, and what differs otherwise gives each its name."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from fedloru.report.records import Records

FORMS = ("method.name", "model.name", "data.source", "partition.scheme", "server.rule")
"""The settings that choose the form of their section: the other settings of two forms are not held to each other."""

BY_SEED = frozenset({"seed", "partition.seed", "model.seed", "cohort.seed", "model.hash"})
"""What changes with the seed; ``data.seed`` does not, for it says which examples are tested on."""

Settings = dict[str, Any]


class Group(NamedTuple):
    """Runs of one configuration, by seed; ``label`` tells it from the groups beside it."""

    label: str
    settings: Settings
    runs: tuple[Records, ...]

    @property
    def counted(self) -> tuple[Records, ...]:
        """The runs that numbers are taken from: those that are finished, or where none is, all."""
        return tuple(run for run in self.runs if run.summary) or self.runs


def grouped(runs: Iterable[Records]) -> list[Group]:
    """Return the groups of ``runs``, in the order in which they come."""
    by_settings: dict[str, tuple[Settings, list[Records]]] = {}
    for run in runs:
        settings = _settings(run.config)
        by_settings.setdefault(json.dumps(settings, sort_keys=True), (settings, []))[1].append(run)
    known = [settings for settings, _ in by_settings.values()]
    telling = _telling(known)
    return [
        Group(_label(settings, telling, known), settings, tuple(sorted(found, key=seed)))
        for settings, found in by_settings.values()
    ]


def seed(run: Records) -> int:
    """Return the seed of a run."""
    return int(run.config.get("seed", 0))


def differences(groups: Sequence[Group]) -> dict[str, list[Any]]:
    """Return every setting that is not the same in all ``groups``, with its value in each; None where it has none."""
    keys = dict.fromkeys(key for group in groups for key in group.settings)
    values = {key: [group.settings.get(key) for group in groups] for key in keys}
    return {key: found for key, found in values.items() if any(value != found[0] for value in found)}


def cautions(groups: Sequence[Group]) -> Iterator[str]:
    """Yield, in words, what makes the groups hard to compare."""
    yield from _different_data(groups)
    for group in groups:
        seeds = [seed(run) for run in group.runs]
        if twice := sorted({value for value in seeds if seeds.count(value) > 1}):
            yield f"{group.label} has several runs of seed {_listed(twice)}: their spread says nothing about seeds."
        for run in group.runs:
            if not run.summary:
                rounds = f"{len(run.rounds)} of {run.config.get('rounds', '?')} rounds"
                left_out = ", and is left out of the numbers" if run not in group.counted else ""
                yield f"{run.name} ({group.label}, seed {seed(run)}) is not finished: it has {rounds}{left_out}."


def _different_data(groups: Sequence[Group]) -> Iterator[str]:
    changed = differences(groups)
    data = [key for key in changed if key.startswith("data.")]
    if data:
        yield f"The runs are on different data sets ({_listed(data)} differs): their accuracies mean different things."
        return
    by_seed: dict[int, set[str]] = {}
    for run in (run for group in groups for run in group.runs):
        by_seed.setdefault(seed(run), set()).add(str(run.partition.get("hash")))
    settings = [key for key in changed if key.startswith("partition.")]
    if settings or any(len(hashes) > 1 for hashes in by_seed.values()):
        why = f" ({_listed(settings)} differs)" if settings else ", although their seed is the same"
        yield f"The runs have different partitions of the data{why}: clients do not hold the same examples."


def _settings(config: Mapping[str, Any]) -> Settings:
    flat: Settings = {}
    for name, value in config.items():
        flat |= {f"{name}.{key}": inner for key, inner in value.items()} if isinstance(value, dict) else {name: value}
    return {key: value for key, value in flat.items() if key not in BY_SEED and not key.startswith("output.")}


def _telling(known: Sequence[Settings]) -> list[str]:
    """Return the settings that tell groups apart: first the forms, then what differs within a form or between two."""
    keys = dict.fromkeys([*FORMS, *(key for settings in known for key in settings)])
    return [key for key in keys if any(_differ(key, one, other) for one in known for other in known)]


def _differ(key: str, one: Settings, other: Settings) -> bool:
    if key in one and key in other:
        return bool(one[key] != other[key])
    return (key in one or key in other) and _same_form(key, one, other)


def _same_form(key: str, one: Settings, other: Settings) -> bool:
    chooses = [form for form in FORMS if form.split(".")[0] == key.split(".")[0]]
    return all(one.get(form) == other.get(form) for form in chooses)


def _label(settings: Settings, telling: Sequence[str], known: Sequence[Settings]) -> str:
    last = [_last(key) for key in telling]
    words = []
    for key in telling:
        name = key if last.count(_last(key)) > 1 else _last(key).replace("_", " ")
        if key in settings:
            words.append(str(settings[key]) if key in FORMS else f"{name} {_said(settings[key])}")
        elif any(key in other and _same_form(key, settings, other) for other in known):
            words.append(f"no {name}")
    return ", ".join(words) or str(settings.get("method.name", "runs"))


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _said(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(map(str, values))
