"""The same stages of trials for every method: the learning rate, then two stages of what else it has.

Low-rank methods always clip gradients; FedAvg has twice as many trials in the first stage, with clipping and without.

All trials have the rank of a share of FedAvg's bytes, and are scored on some of the training examples, which they do
not train on: a fifth, unless the task chooses others. Test examples are never used. They have all rounds of a run,
since a rate that is the best in half as many may diverge later. Every stage continues from the best trial so far, with
one seed; at the end, the best few are repeated with more seeds, since a setting may diverge with one seed and be the
best with another.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from claim import budget, tasks
from claim.contenders import CONTENDERS, Federation
from claim.runs import Job, Store, Tuned

SEED = 100
"""The seed of the stages."""
REPEATED, SEEDS = 3, (101, 102)
"""The number of best settings that are repeated, and with which seeds."""
SHARE = 0.05
"""The share of FedAvg's bytes at whose rank methods are tuned, unless a result has its own trials."""
CLIPS = (1.0,)
"""The norms at which low-rank methods clip. Without clipping, the best rates of trials diverged with other seeds."""
STEP = 4
"""The factor between scales; the stage of rates uses the one in the middle."""

STAGES: dict[str, Callable[[Tuned], list[Tuned]]] = {
    # A gradient in the factors is proportional to the scale: both the same rate, and the same change of the output.
    "scale": lambda best: [
        _faster(best, rate)._replace(scale=best.scale * step)
        for step, rate in ((STEP, 1), (STEP, 1 / STEP), (1 / STEP, 1), (1 / STEP, STEP))
    ],
    "cycle": lambda best: [best._replace(cycle=cycle) for cycle in (1, 2, 5, 10)],
    "fine": lambda best: [_faster(best, factor) for factor in (0.5, 0.7, 1.4, 2.0)],
    "finer": lambda best: [_faster(best, factor) for factor in (0.6, 0.85, 1.2, 1.6)],
}
"""What follows the stage of rates."""
TRIALS = 4
"""The trials of each of these stages."""


def _faster(tuned: Tuned, factor: float) -> Tuned:
    return tuned._replace(lr=float(f"{tuned.lr * factor:.3g}"))


class Trials(NamedTuple):
    """The trials so far of a method: the score of every setting, and its mean over seeds if it has been repeated.

    ``missing`` are the trials that must run before the next stage, and ``later`` is the number of those after them.
    """

    scores: dict[Tuned, float]
    repeated: dict[Tuned, float]
    missing: list[Job]
    later: int

    @property
    def best(self) -> Tuned:
        """The settings with the highest mean score, the first of them if several have it."""
        found = self.repeated or self.scores
        return max(found, key=found.__getitem__)

    @property
    def staged(self) -> bool:
        """Whether all stages are complete, so that at most repetitions are missing."""
        return not self.missing or not self.later

    @property
    def count(self) -> int:
        """The number of trials that have run."""
        return len(self.scores) + len(self.repeated) * len(SEEDS)


def trials(federation: Federation, contender: str, share: float, store: Store, folder: Path) -> Trials:
    """Return the trials of a method in a federation, stage by stage, up to the first one that is incomplete.

    They have the rank of ``share`` of FedAvg's bytes.
    """

    def run(tuned: Tuned, seed: int) -> float | Job:
        rank = budget.rank(federation, contender, tuned.cycle, share, folder)
        job = Job(federation, contender, rank, tuned, seed, validation=True)
        result = store.find(job)
        return job if result is None else float(result["accuracy"])

    task, chosen, scores = tasks.TASKS[federation.task], CONTENDERS[contender], dict[Tuned, float]()
    stages = [STAGES[name] for name in chosen.stages]
    tried = [Tuned(lr, clip) for lr, clip in product(task.rates, CLIPS if chosen.ranked else task.clips)]
    for later in range(len(stages), -1, -1):
        found = {tuned: run(tuned, SEED) for tuned in tried if tuned not in scores}
        missing = [each for each in found.values() if isinstance(each, Job)]
        scores |= {tuned: each for tuned, each in found.items() if not isinstance(each, Job)}
        if missing:
            return Trials(scores, {}, missing, later * TRIALS + REPEATED * len(SEEDS))
        if later:
            tried = stages[-later](Trials(scores, {}, [], 0).best)
    best = sorted(scores, key=scores.__getitem__, reverse=True)[:REPEATED]
    again = {tuned: [run(tuned, seed) for seed in SEEDS] for tuned in best}
    missing = [each for results in again.values() for each in results if isinstance(each, Job)]
    if missing:
        return Trials(scores, {}, missing, 0)
    means = {tuned: mean([scores[tuned], *results]) for tuned, results in again.items()}
    return Trials(scores, means, [], 0)
