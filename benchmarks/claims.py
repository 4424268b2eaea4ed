"""Test the claims of federated low-rank training on real data: accuracy against MB, clients, skew, rank, texts.

    python benchmarks/claims.py --data-dir DIR [--part a,b,c,d,e,f] [--task NAME,…] [--method NAME,…] [--seeds 3]
        [--jobs 2] [--out benchmarks/results/claims] [--docs docs/claims.md] [--readme README.md]

Part a compares all methods by accuracy and bytes, b divides the same data among more clients, c varies the label skew,
d looks at the rank of what is learned and at the share of the gradient that a method follows, e trains two language
models, and f trains more rounds. Every method is tuned in stages before its runs.

Every run is saved when it ends, and is not repeated: stop the benchmark at any time, and start it again. ``--jobs`` is
the number of processes, with one thread each. ``--docs`` and ``--readme`` train nothing: they write the page, and an
overview, from the runs that are there.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import markers
from claim import page, tables, tasks
from claim.contenders import CONTENDERS
from claim.parts import PARTS, Benchmark
from claim.runs import Job, Store, train

Result = tuple[Job, dict[str, Any]]


def run(folder: Path, job: Job) -> Result:
    """Train a job; a function of the module, so that another process finds it."""
    return job, train(job, folder)


@contextmanager
def workers(count: int, folder: Path) -> Iterator[Callable[[Sequence[Job]], Iterator[Result]]]:
    """Return what trains jobs and yields results as they end: in this process, or in ``count`` others."""
    if count == 1:
        yield lambda jobs: map(partial(run, folder), jobs)
        return
    with get_context("spawn").Pool(count, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:
        yield lambda jobs: pool.imap_unordered(partial(run, folder), jobs)


def complete(benchmark: Benchmark, jobs: int, commit: str) -> None:
    """Train until no run is missing; the trials of a stage must end before the next stage is known."""
    with workers(jobs, benchmark.folder) as pool:
        while waiting := benchmark.pending():
            for number, (job, result) in enumerate(pool(waiting), 1):
                benchmark.store.add(job, result, commit)
                print(f"{number} of {len(waiting)}: {described(job, result)}", file=sys.stderr)


def described(job: Job, result: dict[str, Any]) -> str:
    """Return a line about a finished run."""
    where = f"{job.federation.task}, {job.federation.title}, {job.contender} rank {job.rank}"
    kind = "trial" if job.validation else f"seed {job.seed}"
    return f"{where}, {kind}, {job.tuned}: {100 * result['accuracy']:.1f} % in {result['seconds']:.1f} s"


def commit() -> str:
    """Return the commit of the working tree, with "+" if files have changed since."""
    try:
        found = subprocess.run(["git", "describe", "--always", "--dirty=+"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()


def parse() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True, help="the folder of the data sets")
    parser.add_argument("--part", type=names(PARTS), default=list(PARTS), help="parts, by comma (default: all)")
    parser.add_argument("--task", type=names(tasks.TASKS), default=list(tasks.TASKS), help="tasks (default: all)")
    parser.add_argument("--method", type=names(CONTENDERS), default=list(CONTENDERS), help="methods (default: all)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds per result (default: 3)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/claims"), help="the folder of the runs")
    parser.add_argument("--docs", type=Path, help="only write this page, and its pictures next to it")
    parser.add_argument("--readme", type=Path, help="only put an overview of part a into this page")
    arguments = parser.parse_args()
    if min(arguments.seeds, arguments.jobs) < 1:
        parser.error(f"--seeds and --jobs must be at least 1, got {arguments.seeds} and {arguments.jobs}")
    if arguments.readme and (problem := markers.problem(arguments.readme, "claims")):
        parser.error(problem)
    if arguments.readme and "a" not in arguments.part:
        parser.error("--readme shows part a: add it to --part")
    return arguments


def names(known: Collection[str]) -> Callable[[str], list[str]]:
    """Return a parser of names, separated by commas, that must be ``known``."""

    def parsed(text: str) -> list[str]:
        found = text.split(",")
        if unknown := [name for name in found if name not in known]:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)} is not one of {', '.join(known)}")
        return found

    return parsed


def main() -> None:
    """Train the runs that are missing, or write the page."""
    arguments = parse()
    store = Store(arguments.out)
    problems = {task: tasks.TASKS[task].missing for task in arguments.task}
    for problem in filter(None, problems.values()):
        print(problem, file=sys.stderr)
    benchmarks = {}
    for part in arguments.part:
        wanted = (each for each in PARTS[part]() if problems.get(each.federation.task, "not chosen") is None)
        wanted = (each for each in wanted if each.contender in arguments.method)
        benchmarks[part] = Benchmark(wanted, arguments.seeds, store, arguments.data_dir)
    if arguments.docs:
        page.write(arguments.docs, benchmarks)
    if arguments.readme:
        markers.put(arguments.readme, "claims", tables.overview(dict(benchmarks["a"].results())).rstrip())
    if arguments.docs or arguments.readme:
        return
    start = time.monotonic()
    try:
        for benchmark in benchmarks.values():
            complete(benchmark, arguments.jobs, commit())
    except KeyboardInterrupt:
        sys.exit("stopped: the same command continues with the run that was in progress")
    print(f"complete after {(time.monotonic() - start) / 60:.0f} minutes: see --docs", file=sys.stderr)


if __name__ == "__main__":
    main()
