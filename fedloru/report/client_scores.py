"""Which clients got better or worse: the scores of each client at the first and the last scored round."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

from fedloru.errors import counted, listed, plain
from fedloru.report import units, wording
from fedloru.report.columns import Column, Listing
from fedloru.report.records import Records
from fedloru.report.scores import SHARES, higher_is_better
from fedloru.schema import metric_names

if TYPE_CHECKING:
    import plotly.graph_objects as go

NAME, ROWS, BARS = 40, 200, 40
"""The length to which names are cut, and the maximum number of clients in the table and in the picture."""
EXPONENT = 700.0
"""The loss from which a perplexity is no longer told apart; larger ones exceed a float."""

TESTED_ON = {
    "own": " Each client is tested on its own test examples.",
    "key": " Each client is tested on its rows of the test set.",
    "classes": " Each client is tested on a part of the test set with its mix of classes.",
}
"""What clients are tested on, by the word for it in ``partition.json``; earlier versions have none."""


class Course(NamedTuple):
    """A score of a client over the rounds in which it was scored, and the last one of its personal model."""

    client: str
    units: int
    rounds: tuple[int, ...]
    values: tuple[float, ...]
    personal: float | None

    @property
    def change(self) -> float | None:
        """The change since the first scored round; None if there is no other."""
        return self.values[-1] - self.values[0] if len(self.values) > 1 else None

    @property
    def last_change(self) -> float | None:
        """The change since the scored round before the last; None if there is none."""
        return self.values[-1] - self.values[-2] if len(self.values) > 1 else None


def by_model(entry: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return the scores in an entry of a row by model; earlier versions have only an accuracy or a loss."""
    if entry.get("shared"):
        return {model: entry[model] for model in ("shared", "personal") if isinstance(entry.get(model), dict)}
    shared = {name: entry[name] for name in ("accuracy", "loss") if entry.get(name) is not None}
    personal = entry.get("personal")
    return {"shared": shared, **({"personal": {"accuracy": personal}} if isinstance(personal, float) else {})}


def _values(entry: Mapping[str, Any], name: str) -> dict[str, float]:
    """Return the score called ``name`` by model, of the models that have it; perplexity follows from the loss."""
    measured = "loss" if name == "perplexity" else name
    found = {model: scores[measured] for model, scores in by_model(entry).items() if measured in scores}
    return {model: math.exp(min(value, EXPONENT)) for model, value in found.items()} if name == "perplexity" else found


def score(records: Records) -> str:
    """Return the score that clients are compared by.

    It is the first further metric, or else the perplexity of a language model, the accuracy, or the loss.
    """
    found = {name for row in records.measured for entry in _entries(row) for name in by_model(entry)["shared"]}
    further = [name for name in metric_names(records.rounds) if name in found]
    if not further and "loss" in found and any("test_perplexity" in row for row in records.measured):
        return "perplexity"
    return next((name for name in (*further, "accuracy") if name in found), "loss")


def courses(records: Records) -> list[Course]:
    """Return the course of the score of each client, those that got worse most first."""
    name = score(records)
    found: dict[str, list[tuple[int, Mapping[str, Any]]]] = {}
    for row in records.measured:
        for client, entry in row.get("client_scores", {}).items():
            if "shared" in _values(entry, name):
                found.setdefault(client, []).append((row["round"], entry))
    made = [_course(client, name, scored) for client, scored in found.items()]
    return sorted(made, key=lambda one: _gain(records, one.change))


def _course(client: str, name: str, scored: Sequence[tuple[int, Mapping[str, Any]]]) -> Course:
    last = _values(scored[-1][1], name)
    values = tuple(_values(entry, name)["shared"] for _, entry in scored)
    rounds = tuple(round for round, _ in scored)
    return Course(client, scored[-1][1].get("units", 0), rounds, values, last.get("personal"))


def _entries(row: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield from row.get("client_scores", {}).values()


def _gain(records: Records, change: float | None) -> float:
    """Return by how much a client got better."""
    return 0.0 if change is None else change if higher_is_better(score(records), [records]) else -change


def listing(records: Records, limit: int = ROWS) -> Listing:
    """Return the scores of at most ``limit`` clients, those that got worse most first; percentages or plain numbers."""
    name, found = score(records), courses(records)
    shown = (lambda value: units.percent(value)) if name in SHARES else units.decimal
    changed = (lambda value: f"{100 * value:+.1f}") if name in SHARES else (lambda value: f"{value:+.3f}")
    unit = ", points" if name in SHARES else ""
    has_personal, has_previous = any(one.personal is not None for one in found), len(_rounds(found)) > 2
    columns = [
        Column("client", "client", lambda client: plain(client, NAME), wraps=False),
        Column("units", "tested on", lambda count: f"{count:,}" if count else units.DASH, right=True),
        Column("first", f"{wording.metric(name)} first", shown, right=True),
        Column("last", "last", shown, right=True),
        *([Column("personal", "personal model", shown, right=True)] if has_personal else []),
        Column("change", f"change since first{unit}", changed, right=True),
        *([Column("last_change", f"change since previous{unit}", changed, right=True)] if has_previous else []),
    ]
    rows = [
        one._asdict()
        | {"first": one.values[0], "last": one.values[-1], "change": one.change, "last_change": one.last_change}
        for one in found[:limit]
    ]
    return Listing(columns, rows)


def caption(records: Records, limit: int = ROWS) -> str:
    """Return what the table and the picture show."""
    found = courses(records)
    which = f"The {limit} that got worse most. " if len(found) > limit else ""
    better = f"{'higher' if higher_is_better(score(records), [records]) else 'lower'} is better"
    tested_on = TESTED_ON.get(records.partition.get("tested_on", ""), "")
    return f"{which}{_worse(records, found)} ({better}).{_without(records, found)}{tested_on}"


def _without(records: Records, found: Sequence[Course]) -> str:
    """Return which clients were scored, but lack the score that they are compared by."""
    scored = {client for row in records.measured for client in row.get("client_scores", {})}
    names = [plain(client, NAME) for client in sorted(scored - {one.client for one in found})]
    lacking = counted(len(names), "client has", "clients have")
    return f" {lacking} no {wording.metric(score(records))}: {listed(names)}." if names else ""


def _worse(records: Records, found: Sequence[Course]) -> str:
    """Return how many clients got worse since the first and since the previous scored round."""
    rounds = _rounds(found)
    if len(rounds) < 2:
        return f"{len(found):,} client{'s were' if len(found) > 1 else ' was'} scored in round {rounds[0]}"
    worse = sum(_gain(records, one.change) < 0 for one in found)
    lately = sum(_gain(records, one.last_change) < 0 for one in found)
    recent = f", {lately:,} since round {rounds[-2]}" if len(rounds) > 2 else ""
    return f"{worse:,} of {len(found):,} clients got worse between round {rounds[0]} and round {rounds[-1]}{recent}"


def _rounds(found: Sequence[Course]) -> list[int]:
    """Return the rounds in which any client was scored."""
    return sorted({round for one in found for round in one.rounds})


def figure(records: Records) -> go.Figure:
    """Plot the change of each client since its first score, as a line to its last one; at most ``BARS`` clients."""
    import plotly.graph_objects as go

    from fedloru.report import style

    name = score(records)
    found = [one for one in courses(records) if one.change is not None][:BARS]
    made = style.figure(wording.metric(name), "", height=90 + 20 * len(found))
    for label, color, is_worse in (("got worse", style.VERMILLION, True), ("got better", style.BLUE, False)):
        group = [place for place, one in enumerate(found) if (_gain(records, one.change) < 0) == is_worse]
        x = [value for place in group for value in (found[place].values[0], found[place].values[-1], None)]
        y = [value for place in group for value in (place, place, None)]
        made.add_trace(
            go.Scatter(x=x, y=y, name=label, mode="lines", line={"color": color, "width": 3}, hoverinfo="skip")
        )
        ends = go.Scatter(x=[found[place].values[-1] for place in group], y=group, mode="markers", showlegend=False)
        ends.update(marker={"color": color, "size": 9}, customdata=[_hover(found[place]) for place in group])
        made.add_trace(ends.update(hovertemplate="%{customdata}<extra></extra>"))
    names = [escape(plain(one.client, NAME), quote=False) for one in found]
    made.update_yaxes(tickvals=list(range(len(found))), ticktext=names, autorange="reversed", showgrid=False)
    return made.update_layout(hovermode="closest").update_xaxes(tickformat=".1~%" if name in SHARES else "")


def _hover(one: Course) -> str:
    first, last = (
        f"round {round}: {value:.4g}"
        for round, value in zip(one.rounds, one.values, strict=True)
        if round in (one.rounds[0], one.rounds[-1])
    )
    return f"{escape(plain(one.client, NAME), quote=False)}<br>{first}<br>{last}"
