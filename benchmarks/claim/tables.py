"""The tables of the page, in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from claim.contenders import BASELINE, CONTENDERS, RECOMMENDED, Federation
from claim.parts import TARGETS, Results, Tuning, Wanted
from claim.stats import Interval, differences, interval, ratios
from claim.tasks import TASKS
from claim.tuning import Trials

Found = Mapping[Wanted, Results]
"""The results of a part."""


def grid(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def accuracies(results: Results) -> dict[int, float]:
    """Return the accuracies in % by seed."""
    return {seed: 100 * result["accuracy"] for seed, result in results.items()}


def sent(result: Mapping[str, Any]) -> int:
    """Return the bytes of a run in both directions, without the first download."""
    directions = result["bytes"].values()
    return sum(count for kinds in directions for kind, count in kinds.items() if kind != "first_download")


def first_download(found: Found, federation: Federation) -> str:
    """Return what the first download would add to the bytes of the recommended method; "" if there are no results."""
    whole = _sent(find(found, federation, BASELINE))
    shares = [
        result["bytes"]["down"].get("first_download", 0) / whole[seed]
        for wanted, results in found.items()
        if (wanted.federation, wanted.contender) == (federation, RECOMMENDED)
        for seed, result in results.items()
        if seed in whole
    ]
    if not shares:
        return ""
    added = f"{100 * min(shares):.2g} to {100 * max(shares):.2g} %"
    return f", where the first download of {CONTENDERS[RECOMMENDED].label} would add {added} of FedAvg's bytes"


def find(found: Found, federation: Federation, contender: str, share: float | None = None) -> Results:
    """Return the results of a contender, at a share or at the only one it has; {} if there are none."""
    for wanted, results in found.items():
        if (wanted.federation, wanted.contender) == (federation, contender) and share in (None, wanted.share):
            return results
    return {}


def share_of(found: Found, wanted: Wanted) -> float | None:
    """Return the measured share of FedAvg's bytes; None if no seed has a complete run of both."""
    own, whole = (_sent(each) for each in (found[wanted], find(found, wanted.federation, BASELINE)))
    share = ratios(own, whole)
    return None if share is None else share.mean


def _sent(results: Results) -> dict[int, float]:
    return {seed: float(sent(result)) for seed, result in results.items() if not result["diverged"]}


def by_share(found: Found, federation: Federation) -> str:
    """Return the accuracies of all contenders in a federation, one column per share of FedAvg's bytes."""

    def cell(wanted: Wanted) -> str:
        own, whole = accuracies(found[wanted]), accuracies(find(found, federation, BASELINE))
        share, difference = share_of(found, wanted), differences(own, whole)
        behind = "" if difference is None or wanted.contender == BASELINE else f" ({difference.shown(sign='+')})"
        at = "" if share is None else f", {100 * share:.3g} %"
        diverged = sum(result["diverged"] for result in found[wanted].values())
        failed = f", {diverged} diverged" if diverged else ""
        return f"{interval(list(own.values())).shown()}{behind}{at}{failed}"

    return _shares(found, federation, cell)


def behind_recommended(found: Found, federation: Federation) -> str:
    """Return the lead of the recommended method over every other with a rank, at the same share; "" without results."""

    def cell(wanted: Wanted) -> str:
        ahead = accuracies(find(found, federation, RECOMMENDED, wanted.share))
        lead = differences(ahead, accuracies(found[wanted]))
        return "–" if lead is None else lead.shown(sign="+")

    if not find(found, federation, RECOMMENDED):
        return ""
    others = [each for each in found if each.contender != RECOMMENDED and CONTENDERS[each.contender].ranked]
    return _shares({wanted: found[wanted] for wanted in others}, federation, cell)


def _shares(found: Found, federation: Federation, cell: Callable[[Wanted], str]) -> str:
    here = [wanted for wanted in found if wanted.federation == federation]
    shares = sorted({wanted.share for wanted in here})
    rows = []
    for contender in dict.fromkeys(wanted.contender for wanted in here):
        cells = {wanted.share: cell(wanted) for wanted in here if wanted.contender == contender}
        rows.append([CONTENDERS[contender].label, *(cells.get(share, "") for share in shares)])
    return grid(["method", *(f"{100 * share:g} %" for share in shares)], rows)


def targets(found: Found) -> str:
    """Return one row per federation: the distance to FedAvg, in points, of what has its own trials."""
    rows = []
    for federation in dict.fromkeys(wanted.federation for wanted in found):
        whole = accuracies(find(found, federation, BASELINE))
        behind = [differences(accuracies(find(found, federation, *each)), whole) for each in TARGETS]
        if any(behind):
            shown = ["–" if each is None else each.shown(sign="+") for each in behind]
            rows.append([f"{TASKS[federation.task].title}; {federation.title}", *shown])
    return grid(["data; clients", *map(_headed, TARGETS)], rows)


def _headed(entry: tuple[str, float]) -> str:
    contender, share = entry
    return f"{CONTENDERS[contender].label}, {100 * share:g} %"


OVERVIEW = (
    ("fedlora", 0.05),
    ("fedloru-paper", 0.05),
    ("fedloru", 0.05),
    ("fedloru", 0.08),
    ("fedlora-int4", 0.025),
    ("fedloru-int4", 0.025),
)
"""The contenders in the overview, each at a share of FedAvg's bytes."""


def overview(found: Found) -> str:
    """Return one row per federation: FedAvg's accuracy in %, and those of some contenders at a share of its bytes."""
    rows = []
    for federation in dict.fromkeys(wanted.federation for wanted in found):
        cells = [find(found, federation, BASELINE), *(find(found, federation, *each) for each in OVERVIEW)]
        shown = [interval(list(accuracies(results).values())).shown() if results else "–" for results in cells]
        rows.append([f"{TASKS[federation.task].title}; {federation.title}", *shown])
    return grid(["data; clients", CONTENDERS[BASELINE].label, *map(_headed, OVERVIEW)], rows)


def compared(found: Found, title: str, compare: Callable[..., Interval | None], digits: int = 1, sign: str = "") -> str:
    """Return one row per federation and one column per contender: FedAvg's accuracy, and how others compare."""
    contenders = list(dict.fromkeys(wanted.contender for wanted in found if wanted.contender != BASELINE))
    rows = []
    for federation in dict.fromkeys(wanted.federation for wanted in found):
        whole = accuracies(find(found, federation, BASELINE))
        cells = [compare(accuracies(find(found, federation, contender)), whole) for contender in contenders]
        baseline = interval(list(whole.values())).shown() if whole else "–"
        shown = ["–" if each is None else each.shown(digits, sign=sign) for each in cells]
        rows.append([federation.task, federation.title, baseline, *shown])
    heads = ["task", title, CONTENDERS[BASELINE].label, *(CONTENDERS[contender].label for contender in contenders)]
    return grid(heads, rows)


def ranks(found: Found) -> str:
    """Return the numerical and the effective rank of W_T − W₀ of every weight."""
    rows = []
    for wanted, results in found.items():
        complete = [result for result in results.values() if "ranks" in result]
        for weight in complete[0]["ranks"] if complete else ():
            each = [result["ranks"][weight] for result in complete]
            own = {key: interval([rank[key] for rank in each]) for key in ("numerical", "effective", "stable")}
            rows.append(
                [
                    wanted.federation.task,
                    CONTENDERS[wanted.contender].label,
                    f"`{weight}`",
                    f"{own['numerical'].shown()} of {each[0]['full']}",
                    own["effective"].shown(),
                    own["stable"].shown(),
                ]
            )
    return grid(["task", "method", "weight", "numerical rank", "effective rank", "stable rank"], rows)


def settings(trials: Mapping[Tuning, Trials]) -> str:
    """Return the settings that tuning chose, the number of trials, and the best score on validation examples."""
    rows = []
    for (federation, contender, share), each in trials.items():
        if not each.staged:
            continue
        best, ranked = each.best, CONTENDERS[contender].ranked
        rows.append(
            [
                f"{federation.task}, {federation.title}",
                CONTENDERS[contender].label,
                f"{100 * share:g} %" if ranked else "",
                f"{best.lr:.3g}",
                "none" if best.clip is None else f"{best.clip:g}",
                f"{best.scale:g}" if ranked else "",
                "default" if best.cycle is None else str(best.cycle),
                str(each.count),
                f"{100 * (each.repeated or each.scores)[best]:.1f}",
            ]
        )
    heads = ["federation", "method", "share", "rate", "clip", "scale α/r", "cycle", "trials", "validation accuracy"]
    return grid(heads, rows)
