"""The same number of trials for every method: learning rate and clipping, then two stages of what else it has.

All trials have one seed and the rank of a share of FedAvg's bytes, and are scored on a fifth of the training
examples, which they do not train on. Test examples are never used. They have all rounds of a run, since a rate that is
the best in half as many may diverge later. Every stage continues from the best trial so far.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import NamedTuple

from claim import budget, tasks
from claim.contenders import CONTENDERS, Federation
from claim.runs import Job, Store, Tuned

SEED = 100
"""The seed of all trials."""
SHARE = 0.05
"""The share of FedAvg's bytes at whose rank methods are tuned, unless a result has its own trials."""
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
    """The trials so far of a method, with their scores, and those that are missing before the next stage.

    ``later`` is the number of trials in the stages after that.
    """

    scores: dict[Tuned, float]
    missing: list[Job]
    later: int

    @property
    def best(self) -> Tuned:
        """The settings with the highest score, the first of them if several have it."""
        return max(self.scores, key=self.scores.__getitem__)


def trials(federation: Federation, contender: str, share: float, store: Store, folder: Path) -> Trials:
    """Return the trials of a method in a federation, stage by stage, up to the first one that is incomplete.

    They have the rank of ``share`` of FedAvg's bytes.
    """
    task, scores, missing = tasks.TASKS[federation.task], dict[Tuned, float](), list[Job]()
    stages = [STAGES[name] for name in CONTENDERS[contender].stages]
    tried = [Tuned(lr, clip) for lr, clip in product(task.rates, task.clips)]
    for later in range(len(stages), -1, -1):
        for tuned in tried:
            rank = budget.rank(federation, contender, tuned.cycle, share, folder)
            job = Job(federation, contender, rank, tuned, SEED, validation=True)
            result = store.find(job)
            if result is None:
                missing.append(job)
            else:
                scores.setdefault(tuned, result["accuracy"])
        if missing or not later:
            return Trials(scores, missing, later * TRIALS)
        tried = stages[-later](Trials(scores, missing, later).best)
    raise AssertionError("the last stage returns")
