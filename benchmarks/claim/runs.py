"""One run of the benchmark, as a value and as a function, and the file of runs that are done."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import statistics
import time
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch

from claim import diagnose, tasks
from claim.contenders import CONTENDERS, Federation
from fedloru.errors import TrainingError
from fedloru.evaluate import Score, evaluate
from fedloru.files import write_atomic
from fedloru.run.loop import Run
from fedloru.run.plan import Plan

LAST = 5
"""Scores are averaged over this number of last rounds."""
FORMULA = ("fp32",)
"""The codecs that change no value, for which bytes are computed by the formula and no message is encoded."""


class Tuned(NamedTuple):
    """The settings that are tuned; a ``cycle`` of None is the default of the method."""

    lr: float
    clip: float | None = None
    scale: float = 4.0
    cycle: int | None = None


class Job(NamedTuple):
    """The complete configuration of a run; a trial is scored on validation examples."""

    federation: Federation
    contender: str
    rank: int | None
    tuned: Tuned
    seed: int
    validation: bool = False
    diagnosed: bool = False

    @property
    def config(self) -> dict[str, Any]:
        """Everything that the result depends on; the label of the contender is not a part of it."""
        task, contender = tasks.TASKS[self.federation.task], CONTENDERS[self.contender]
        method = {"method": contender.method, "settings": contender.settings, "codec": contender.codec}
        own = {"rank": self.rank, "seed": self.seed, "validation": self.validation, "diagnosed": self.diagnosed}
        rounds = {"rounds": self.rounds, "about": task.about}
        return self.federation._asdict() | method | own | self.tuned._asdict() | rounds

    @property
    def rounds(self) -> int:
        """The number of rounds."""
        return tasks.TASKS[self.federation.task].rounds

    @property
    def key(self) -> str:
        """A name of the configuration: its task, method and hash."""
        text = json.dumps(self.config, sort_keys=True)
        return f"{CONTENDERS[self.contender].method}-{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"


class Store:
    """The finished runs in a folder: one file of JSON lines per task, one line per run.

    Only one process writes. A run is a single line that is on disk before the next one starts; a line that was cut off
    by a crash is dropped when the file is read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def records(self) -> dict[str, dict[str, Any]]:
        """All finished runs by their keys."""
        lines = [line for path in sorted(self.folder.glob("*.jsonl")) for line in _complete_lines(path)]
        return {record["key"]: record for record in map(json.loads, lines)}

    def find(self, job: Job) -> dict[str, Any] | None:
        """Return the result of a job, or None if it has not run."""
        record = self.records.get(job.key)
        return None if record is None else record["result"]

    def add(self, job: Job, result: dict[str, Any], commit: str) -> None:
        """Append a finished run to the file of its task."""
        record = {"key": job.key, "config": job.config, "result": result, "commit": commit}
        known = self.records
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{job.federation.task}.jsonl"
        if path.exists() and not path.read_bytes().endswith(b"\n"):
            write_atomic(path, "".join(f"{line}\n" for line in _complete_lines(path)).encode())
        with path.open("ab") as file:
            file.write(f"{json.dumps(record, ensure_ascii=False)}\n".encode())
            file.flush()
            os.fsync(file.fileno())
        known[job.key] = record


def _complete_lines(path: Path) -> list[str]:
    lines = path.read_text("utf-8").splitlines(keepends=True)
    return [line.rstrip("\n") for line in lines if line.endswith("\n")]


def plan(job: Job, folder: Path) -> Plan:
    """Return the run that a job describes, on the data in ``folder``."""
    task, contender, federation = tasks.TASKS[job.federation.task], CONTENDERS[job.contender], job.federation
    data = tasks.examples(federation.task, folder, tasks.split_seed(federation.task, job.seed), job.validation)
    clients = federation.partition(data, task.key, job.seed)
    return Plan(
        task.make(folder, job.seed, job.rank, job.tuned.scale),
        contender.make(job.tuned.cycle),
        data,
        clients,
        rounds=job.rounds,
        cohort=min(federation.cohort, len(clients.train)),
        recipe=task.recipe._replace(lr=job.tuned.lr, clip=job.tuned.clip),
        seed=job.seed,
        codec=contender.codec,
        round_trip=contender.codec not in FORMULA,
        eval_every=job.rounds,
        diagnostics=False,
    )


def train(job: Job, folder: Path) -> dict[str, Any]:
    """Train the run of a job, and return its scores, bytes and seconds; one that diverges has that of chance."""
    torch.set_num_threads(1)
    start = time.process_time()
    made = plan(job, folder)
    run = Run(made)
    observer = diagnose.Observer(run) if job.diagnosed else None
    scores: list[Score] = []
    diverged = False
    try:
        for row in run:
            if observer:
                observer.after_round()
            if row["round"] > job.rounds - LAST:
                scores.append(evaluate(made.net, run.tensors, made.dataset.test))
    except TrainingError:
        diverged = True
    classes = len(made.dataset.classes)
    chance = 1 / classes if classes else 0.0
    return {
        "accuracy": chance if diverged else statistics.mean(score.accuracy for score in scores),
        "loss": None if diverged else statistics.mean(score.loss for score in scores),
        "diverged": diverged,
        "bytes": run.summary()["bytes"],
        **(observer.results() if observer and not diverged else {}),
        "seconds": round(time.process_time() - start, 2),
        "processor": processor(),
    }


def processor() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), platform.machine())


def unique(jobs: Iterable[Job]) -> list[Job]:
    """Return the jobs without those that have the same configuration as an earlier one, sorted by their data."""
    found = {job.key: job for job in jobs}
    return sorted(found.values(), key=lambda job: (job.federation.task, job.validation, job.seed))
