"""The page of results: what was done, on what, and the tables and pictures of every part."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from matplotlib.figure import Figure

from claim import pictures, tables, tasks, tuning
from claim.contenders import BASELINE, CONTENDERS, Federation
from claim.parts import TARGETS, Benchmark
from claim.runs import LAST, Store
from claim.stats import differences, ratios
from claim.tables import Found
from fedloru.files import write_atomic

Draw = Callable[[Figure, str], str]
"""Saves a picture under a name, and returns its Markdown."""

TUNED = " and ".join(f"{100 * share:g} %" for share in sorted({share for _, share in TARGETS}))
"""The shares of the results with their own trials, in words."""

INTRODUCTION = f"""# Claims, tested

Does low-rank training reach the accuracy of FedAvg with a small part of its bytes? How does that depend on the number
of clients, the label skew and the data? This page is written by a benchmark:

    python benchmarks/claims.py --data-dir DIR                        # trains the runs that are missing
    python benchmarks/claims.py --data-dir DIR --docs docs/claims.md  # writes this page

DIR holds `mnist_train.parquet`, `mnist_test.parquet`, `cifar10_train.parquet`, `cifar10_test.parquet`,
`dolly15k_all.parquet`, `motionsense.npz` and `heart_disease_all.parquet`, and for the language models
`tinyshakespeare_by_speaker_all.parquet`, `sst2_train.parquet`, `sst2_validation.parquet` and `models/stories260k`.

An accuracy is that of the shared model on test examples, averaged over the last {LAST} rounds, and over seeds of the
partition, the model and the cohorts; pretrained models are the same for all seeds. ± is half of the 95% interval of
Student's t distribution over seeds; differences and ratios are paired over shared seeds. A rank is chosen so that the
bytes of a method, in both directions and with catch-up, are as near as possible to a share of those of FedAvg in
float32. Layers that are too small for a rank stay dense, so some shares cannot be reached, and the measured share is
shown. The first download of the frozen model is not counted: clients that create the model from its seed, or have it
already, do not need it (`wire.first_download = false`). Part (a) says what it would add.

Methods are tuned in stages, and a table at the end lists the number of trials and the chosen settings: first the
learning rate, then the scale α/r and finer rates. FedMUD's last stage tunes its cycle instead; all others, both recipes
of FedLoRU included, keep their default. FedAvg, and methods that factorize the whole weight, have two stages of finer
rates. Low-rank methods clip gradients at 1, since without clipping their best rates diverge with some seeds. On most
tasks, FedAvg's first stage also chooses whether to clip, and has twice as many trials; on the others, it clips. The
{tuning.REPEATED} best settings of one seed are repeated with {len(tuning.SEEDS)} more, and the one with the highest
mean is used. Trials are scored on a fifth of the training examples, which they do not train on. Those of FedLoRU and
FedLoRA at {TUNED} have the rank of that share; all other results use settings that were chosen at the rank of
{100 * tuning.SHARE:g} % of FedAvg's bytes, which may be too fast at lower ranks. Heart disease is split again for every
seed, so that validation examples of the trials may be test examples of the results. A run that diverges has the
accuracy of chance, or 0 where examples have no classes.
"""


def write(path: Path, benchmarks: Mapping[str, Benchmark]) -> None:
    """Write the page of all parts, and its pictures into the folder ``pictures`` next to it."""

    def draw(figure: Figure, name: str) -> str:
        pictures.save(figure, path.parent / "pictures" / f"claims-{name}.png")
        return f"![{name.replace('-', ' ')}](pictures/claims-{name}.png)\n"

    parts = [INTRODUCTION, provenance(benchmarks), selection(benchmarks)]
    for name, benchmark in benchmarks.items():
        found = dict(benchmark.results())
        missing = benchmark.missing()
        parts.append(f"## {TITLES[name]}\n")
        parts.append(
            f"At most {missing:,} runs are missing.{once(benchmark)}\n" if missing else "All runs are complete.\n"
        )
        if found:
            parts += SECTIONS[name](found, draw)
    trials = {pair: each for benchmark in benchmarks.values() for pair, each in benchmark.trials().items()}
    parts += ["## Tuned settings\n", tables.settings(trials)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, "\n".join(parts).encode())


def once(benchmark: Benchmark) -> str:
    """Return a sentence on the results whose settings were not repeated with more seeds; "" if there are none."""
    own = [key for key, trials in benchmark.trials().items() if trials.missing and trials.staged]
    pairs = dict.fromkeys((tasks.TASKS[each.federation.task].title, CONTENDERS[each.contender].label) for each in own)
    named = {task: "; ".join(label for title, label in pairs if title == task) for task, _ in pairs}
    shown = "; ".join(f"{task} ({labels})" for task, labels in named.items())
    return f" Tuned with one seed only: {shown}." if shown else ""


def provenance(benchmarks: Mapping[str, Benchmark]) -> str:
    """Return a sentence on the number of runs in the store, their commits, processors and time."""
    store: Store = next(iter(benchmarks.values())).store
    records = store.records.values()
    commits = sorted({f"`{record['commit']}`" for record in records})
    processors = sorted({record["result"]["processor"] for record in records})
    hours = sum(record["result"]["seconds"] for record in records) / 3600
    return (
        f"{len(records):,} runs, {hours:.1f} hours of one core of {', '.join(processors)}, at {', '.join(commits)}; "
        "with +, files had changed since.\n"
    )


def selection(benchmarks: Mapping[str, Benchmark]) -> str:
    """Return the options for the parts, tasks and methods that the page was written for."""
    wanted = [each for benchmark in benchmarks.values() for each in benchmark.wanted]
    chosen = (
        benchmarks,
        dict.fromkeys(each.federation.task for each in wanted),
        dict.fromkeys(each.contender for each in wanted),
    )
    shown = [f"{flag} {','.join(names)}" for flag, names in zip(("--part", "--task", "--method"), chosen, strict=True)]
    return f"Both commands had these options as well; other runs are not counted as missing:\n\n    {' '.join(shown)}\n"


def federations(found: Found) -> dict[str, list[Federation]]:
    """Return the federations by task."""
    here = dict.fromkeys(wanted.federation for wanted in found)
    return {task: [each for each in here if each.task == task] for task in dict.fromkeys(each.task for each in here)}


def accuracy(found: Found, draw: Draw) -> Iterator[str]:
    """Yield part (a): tables per federation, and a picture per task."""
    yield (
        "A cell has the accuracy in %, in brackets its difference to FedAvg's, and the measured share of FedAvg's "
        "bytes. The second table has the lead of FedLoRU, in float32, over other methods at the same share. Pictures "
        f"show the {pictures.SHOWN:g} points below FedAvg, which is a horizontal line.\n"
    )
    yield tables.targets(found)
    for task, here in federations(found).items():
        yield f"### {tasks.TASKS[task].title}\n"
        if drawn := [federation for federation in here if tables.find(found, federation, BASELINE)]:
            yield draw(pictures.against_bytes(found, drawn), f"bytes-{task}")
        for federation in here:
            yield f"**{federation.title}**{tables.first_download(found, federation)}\n"
            yield tables.by_share(found, federation)
            yield tables.behind_recommended(found, federation)


def clients(found: Found, draw: Draw) -> Iterator[str]:
    """Yield part (b): ratios to FedAvg's accuracy by the number of clients."""
    yield "FedAvg's accuracy in %, and the accuracy of other methods divided by it.\n"
    yield tables.compared(found, "clients", ratios, digits=3)
    for task, here in federations(found).items():
        for name, part in (("half", 2), ("tenth", 10)):
            if chosen := [each for each in here if each.clients == part * each.cohort]:
                figure = pictures.against(found, chosen, lambda each: each.clients, f"clients, a {name} takes part")
                yield draw(figure, f"clients-{task}-{name}")


def skew(found: Found, draw: Draw) -> Iterator[str]:
    """Yield part (c): differences to FedAvg's accuracy by label skew."""
    yield "FedAvg's accuracy in %, and the difference of other methods to it, in points.\n"
    yield tables.compared(found, "partition", differences, sign="+")
    for task, here in federations(found).items():
        if drawn := [each for each in here if each.alpha]:
            yield draw(pictures.against(found, drawn, lambda each: each.alpha, "Dirichlet α"), f"skew-{task}")


def rank(found: Found, draw: Draw) -> Iterator[str]:
    """Yield part (d): ranks of the total update, and gains by round."""
    yield (
        "The numerical rank counts singular values of W_T − W₀ above 0.001 of the largest. The gain is how fast a step "
        "decreases the loss, relative to a step of dense training at the same rate. It contains the square of the "
        "scale α/r, which is tuned for each method: compare how a curve changes, not its level.\n"
    )
    yield tables.ranks(found)
    for task, here in federations(found).items():
        own = {wanted: results for wanted, results in found.items() if wanted.federation in here}
        yield draw(pictures.gains(own), f"gains-{task}")


def plain(found: Found, draw: Draw) -> Iterator[str]:
    """Yield parts (e) and (f): accuracies by the share of bytes."""
    for here in federations(found).values():
        for federation in here:
            yield f"**{tasks.TASKS[federation.task].title}, {federation.title}**\n"
            yield tables.by_share(found, federation)


TITLES = {
    "a": "Accuracy against bytes",
    "b": "More clients with the same data",
    "c": "Label skew",
    "d": "The rank of what is learned, and the gain of a step",
    "e": "Language models",
    "f": "More rounds",
}
SECTIONS: dict[str, Callable[[Found, Draw], Iterator[str]]] = {
    "a": accuracy,
    "b": clients,
    "c": skew,
    "d": rank,
    "e": plain,
    "f": plain,
}
"""What every part shows."""
