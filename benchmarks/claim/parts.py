"""The parts of the benchmark: which runs each of them needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from claim import budget, tasks, tuning
from claim.contenders import BASELINE, CONTENDERS, RECOMMENDED, Federation
from claim.runs import Job, Store, Tuned, unique

SHARES = (0.01, 0.02, 0.05, 0.1)
"""The shares of FedAvg's bytes."""
TARGETS = (
    ("fedlora", 0.08),
    (RECOMMENDED, 0.08),
    ("fedlora-int4", 0.025),
    ("fedloru-int8", 0.025),
    ("fedloru-int4", 0.025),
)
"""The shares at which the recommended method should be within a point of FedAvg, also for its closest rival.

Each has its own trials, at its share.
"""
FOUR = (BASELINE, "fedlora", "fedloru-paper", RECOMMENDED)
"""The contenders of parts (b) to (e)."""


class Tuning(NamedTuple):
    """What is tuned together: a contender in a federation, at the rank of a share of FedAvg's bytes."""

    federation: Federation
    contender: str
    share: float


Results = dict[int, dict[str, Any]]
"""The results of runs, by seed."""


class Wanted(NamedTuple):
    """A result that a part needs, for each of its seeds; ``share`` is that of FedAvg's bytes."""

    federation: Federation
    contender: str
    share: float
    diagnosed: bool = False

    @property
    def tuning(self) -> Tuning:
        """The trials that choose the settings of this result."""
        own = (self.contender, self.share) in TARGETS
        return Tuning(self.federation, self.contender, self.share if own else tuning.SHARE)


def accuracy() -> Iterator[Wanted]:
    """Yield part (a): all contenders and all shares."""
    federations = [
        Federation(task, *rest)
        for task in ("mnist", "cifar", "dolly")
        for rest in ((20, 10), (100, 10, "dirichlet", 0.3))
    ]
    federations += [Federation("motion", 18, 9, "natural"), Federation("heart", 4, 4, "natural")]
    federations += [Federation(task, 20, 10, "dirichlet", 0.3) for task in ("cnn-small", "cnn")]
    for federation in federations:
        for contender, share in (*_entries(CONTENDERS, SHARES), *TARGETS):
            yield Wanted(federation, contender, share)
    # The ranks of a ResNet of this width are 1 at smaller shares.
    for contender, share in (*_entries(CONTENDERS, SHARES[2:]), *TARGETS):
        yield Wanted(Federation("resnet", 20, 10, "dirichlet", 0.3), contender, share)


def clients() -> Iterator[Wanted]:
    """Yield part (b): the same data divided among more clients."""
    for count in (20, 100, 400):
        for cohort in (count // 2, count // 10):
            yield from _four(Federation("mnist-small", count, cohort))


def skew() -> Iterator[Wanted]:
    """Yield part (c): Dirichlet partitions, from strong skew to almost none, and natural clients."""
    for task in ("mnist", "cifar", "dolly"):
        for alpha in (0.1, 0.3, 1.0, 10.0):
            yield from _four(Federation(task, 20, 10, "dirichlet", alpha))
    yield from _four(Federation("motion", 18, 18, "natural"))
    yield from _four(Federation("heart", 4, 4, "natural"))


def rank() -> Iterator[Wanted]:
    """Yield part (d): the rank of what is learned, and the gain by round."""
    for task in ("mnist", "dolly"):
        for wanted in _four(Federation(task, 20, 10)):
            yield wanted._replace(diagnosed=True)


def language() -> Iterator[Wanted]:
    """Yield part (e): two language models, also with 4-bit codes."""
    for federation in (Federation("minilm", 20, 4, "dirichlet", 0.5), Federation("stories", 74, 8, "natural")):
        yield from _four(federation)
        for contender, share in TARGETS:
            if CONTENDERS[contender].codec == "int4":
                yield Wanted(federation, contender, share)


def longer() -> Iterator[Wanted]:
    """Yield part (f): three times as many rounds, with few of many clients in each."""
    federation = Federation("mnist-long", 100, 10, "dirichlet", 0.3)
    for contender, share in (*_entries(FOUR, (0.05,)), *TARGETS):
        yield Wanted(federation, contender, share)


PARTS: dict[str, Callable[[], Iterator[Wanted]]] = {
    "a": accuracy,
    "b": clients,
    "c": skew,
    "d": rank,
    "e": language,
    "f": longer,
}


def _entries(names: Iterable[str], shares: Iterable[float]) -> Iterator[tuple[str, float]]:
    """Yield the available contenders with each share; a method without a rank has the share 1."""
    for name in names:
        if CONTENDERS[name].available:
            yield from ((name, share) for share in (shares if CONTENDERS[name].ranked else (1.0,)))


def _four(federation: Federation) -> Iterator[Wanted]:
    for contender, share in _entries(FOUR, (tuning.SHARE,)):
        yield Wanted(federation, contender, share)


class Benchmark:
    """The wanted results of a part: their runs as far as tuning has come, and those that are in the store."""

    def __init__(self, wanted: Iterable[Wanted], seeds: int, store: Store, folder: Path) -> None:
        self.wanted, self.seeds, self.store, self.folder = list(wanted), seeds, store, folder

    def trials(self) -> dict[Tuning, tuning.Trials]:
        """Return the trials of every contender in every federation."""
        wanted = dict.fromkeys(each.tuning for each in self.wanted)
        return {each: tuning.trials(*each, self.store, self.folder) for each in wanted}

    def jobs(self, wanted: Wanted, tuned: Tuned) -> list[Job]:
        """Return the runs of a wanted result with tuned settings, one per seed."""
        rank = budget.rank(wanted.federation, wanted.contender, tuned.cycle, wanted.share, self.folder)
        made = (Job(wanted.federation, wanted.contender, rank, tuned, seed) for seed in range(self._seeds(wanted)))
        return [job._replace(diagnosed=wanted.diagnosed) for job in made]

    def pending(self) -> list[Job]:
        """Return the runs that can start now; those that depend on other runs follow when these are done."""
        trials = self.trials()
        waiting = [job for each in trials.values() for job in each.missing]
        for wanted in self.wanted:
            own = trials[wanted.tuning]
            waiting += [] if own.missing else self.jobs(wanted, own.best)
        return [job for job in unique(waiting) if self.store.find(job) is None]

    def missing(self) -> int:
        """Return the number of runs that are missing, at most: some that follow may be in the store already."""
        trials = self.trials()
        later = sum(each.later for each in trials.values())
        blocked = [wanted for wanted in self.wanted if trials[wanted.tuning].missing]
        return len(self.pending()) + later + sum(self._seeds(wanted) for wanted in blocked)

    def results(self) -> Iterator[tuple[Wanted, Results]]:
        """Yield the wanted results of which there are runs, by seed.

        Until the repetitions of trials have run, they have the best settings of one seed.
        """
        trials = self.trials()
        for wanted in self.wanted:
            own = trials[wanted.tuning]
            jobs = self.jobs(wanted, own.best) if own.staged else []
            found = {job.seed: result for job in jobs if (result := self.store.find(job)) is not None}
            if found:
                yield wanted, found

    def _seeds(self, wanted: Wanted) -> int:
        return max(self.seeds, tasks.TASKS[wanted.federation.task].seeds)
