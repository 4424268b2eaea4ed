"""Try the families of transformers with tiny models of random weights, and write what works as a table.

    python benchmarks/families.py [KIND ...] [--out families.json] [--table families.md] [--seconds 120] [--jobs 2]

Each family runs in a separate process with a time and a memory limit. Nothing is downloaded: a model is built from a
tiny configuration (family_configs.py) with random weights and saved. It is trained for two rounds of FedLoRU, the first
of which merges, with both engines, and exported in both formats. The exports, loaded with transformers and PEFT
alone, must give the logits of the trained model. Causal models predict tokens, and encoders classify. Requires the
extra ``hf``.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import os
import tempfile
import traceback
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from family_configs import CLASSES, LONGEST, config
from family_table import Row, counts, table
from torch import Tensor

import fedloru as fl
from fedloru.config.trial import try_out
from fedloru.data import Dataset, Examples, Partition
from fedloru.errors import FedloruError

MEMORY = 6 * 2**30
"""The bytes of address space of the process of a family; not bounded on Windows."""
CLIENTS, TEXTS = 4, 3
DECODERS = {"bart", "bigbird_pegasus", "mbart", "mvp", "plbart", "reformer", "xlm", "xlnet"}
"""Types of models that transformers lists for masked tokens, although they are or have decoders."""
TOLERANCE = 1e-3
"""The largest difference of two results that should be equal, relative to the largest value."""
RECIPE = fl.Recipe("adamw", lr=0.01, batch_size=2, steps=2)


def kinds() -> list[tuple[str, str]]:
    """Return the types of models for texts, and the task to try each with: an encoder classifies."""
    from transformers.models.auto import modeling_auto as auto

    causal = auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys()
    classify = auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.keys()
    encoders = (auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES.keys() & classify) - DECODERS
    return [(kind, "classify" if kind in encoders | (classify - causal) else "causal") for kind in causal | classify]


def main() -> None:
    """Try the families, print a line for each, and write the results and the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kinds", nargs="*", metavar="KIND", help="types of models (default: all)")
    parser.add_argument("--out", type=Path, default=Path("families.json"))
    parser.add_argument("--table", type=Path, default=Path("families.md"))
    parser.add_argument("--seconds", type=float, default=120, help="limit for one family")
    parser.add_argument("--jobs", type=int, default=1, help="families tried at the same time")
    args = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"  # also for the processes of the families
    wanted = [(kind, task) for kind, task in sorted(kinds()) if not args.kinds or kind in args.kinds]
    rows = []
    with ThreadPoolExecutor(args.jobs) as pool:
        for row in pool.map(lambda each: isolated(*each, args.seconds), wanted):
            print(" | ".join(row), flush=True)
            rows.append(row)
    args.out.write_text(json.dumps([row._asdict() for row in rows], indent=1) + "\n")
    args.table.write_text(table(rows))
    print(counts(rows))


def isolated(kind: str, task: str, seconds: float) -> Row:
    """Try a family in a separate process."""
    methods = multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if "forkserver" in methods:
        context.set_forkserver_preload(["fedloru", "transformers", "peft"])
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(kind, task, sender))
    child.start()
    sender.close()
    try:
        found: Row = receiver.recv() if receiver.poll(seconds) else Row(kind, task, "failed", remark="too slow")
    except EOFError:
        found = Row(kind, task, "failed", remark="the process died")
    child.kill()
    child.join()
    return found


def _child(kind: str, task: str, sender: Connection) -> None:
    try:
        import resource
    except ImportError:  # Windows
        pass
    else:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with Path(os.devnull).open("w") as nothing, redirect_stdout(nothing), redirect_stderr(nothing):
        found = attempt(kind, task)
    sender.send(found)


def attempt(kind: str, task: str) -> Row:
    """Try a family: make, train and export it."""
    try:
        made = make(kind, task)
    except FedloruError as error:
        return Row(kind, task, "refused", remark=str(error))
    except Exception as error:  # of a type that the rules for configurations or this machine do not support
        return Row(kind, task, "not built", remark=_line(error))
    with tempfile.TemporaryDirectory() as folder:
        try:
            return trained(kind, task, made, Path(folder))
        except FedloruError as error:
            return Row(kind, task, "refused", remark=str(error).replace(folder, "FOLDER"))
        except Exception as error:  # a bug in fedloru, or in a library
            return Row(kind, task, "failed", remark=_line(error))


def make(kind: str, task: str) -> Any:
    """Return a tiny model of random weights, after it has processed a batch."""
    import transformers

    auto = transformers.AutoModelForCausalLM if task == "causal" else transformers.AutoModelForSequenceClassification
    torch.manual_seed(0)
    made = auto.from_config(config(kind, len(CLASSES) if task == "classify" else None))
    logits(fl.hf.prepare(copy.deepcopy(made)), examples(made, task))
    return made


def trained(kind: str, task: str, made: Any, folder: Path) -> Row:
    """Train a family with both engines and export it."""
    made.save_pretrained(folder / "base")
    classes = CLASSES if task == "classify" else ()
    net = fl.hf.attach(fl.hf.load(str(folder / "base"), task=task, classes=classes), rank=2)  # type: ignore[arg-type]
    data = examples(net.model, task)
    dataset = Dataset("random tokens", data, data, classes)
    clients = fl.data.iid(dataset, clients=CLIENTS)
    try_out(net, dataset, clients, RECIPE)
    runs = [_run(net, dataset, clients, engine, folder / engine) for engine in ("sequential", "auto")]
    remark = _remark(net.skipped)
    engine = "fused" if runs[1].engine.name == "fused" else f"sequential: {runs[1].engine.reason}"
    first, second = (logits(run.model(), data) for run in runs)
    state = "works"
    if (gap := _gap(first, second)) > TOLERANCE:
        state, engine = "failed", f"{engine}, differs by {gap:.2g}"
    results = [_exported(runs[0], format, folder, task, first, data) for format in ("peft", "merged")]
    if any(result.startswith("differs") for result in results):
        state = "failed"
    return Row(kind, task, state, engine, *results, remark)


def _remark(skipped: Mapping[str, str]) -> str:
    """Return the layers without factors, by reason."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in skipped.items():
        by_reason.setdefault(reason, []).append(name)
    return "; ".join(f"no factors in {_some(names)}: {reason}" for reason, names in by_reason.items())


def _some(names: list[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _run(net: fl.Net, dataset: Dataset, clients: Partition, engine: str, out: Path) -> fl.Run:
    run = fl.run(
        net,
        fl.fedloru(recipe="paper", tau=[1]),
        dataset,
        clients,
        rounds=2,
        cohort=CLIENTS,
        recipe=RECIPE,
        engine=engine,
        out=str(out),
    )
    for _ in run:
        pass
    return run


def _exported(run: fl.Run, format: str, folder: Path, task: str, expected: Tensor, data: Examples) -> str:
    """Return "yes" if the export, loaded without fedloru, gives the ``expected`` logits, or what went wrong."""
    import peft
    import transformers

    try:
        fl.export(run, folder / format, format=format)
    except FedloruError as error:
        return f"no: {error}".replace(str(folder), "FOLDER")
    auto = transformers.AutoModelForCausalLM if task == "causal" else transformers.AutoModelForSequenceClassification
    labels = {} if task == "causal" else {"num_labels": len(CLASSES)}
    if format == "merged":
        model = auto.from_pretrained(folder / format)
    else:
        model = peft.PeftModel.from_pretrained(auto.from_pretrained(folder / "base", **labels), folder / format)
    settings, trained_with = model.config.get_text_config(), run.plan.net.model.config.get_text_config()
    model.config.use_cache = settings.use_cache = False
    settings.pad_token_id = getattr(trained_with, "pad_token_id", None)
    gap = _gap(logits(model, data), expected)
    return "yes" if gap < TOLERANCE else f"differs by {gap:.2g}"


def examples(model: Any, task: str) -> Examples:
    """Return texts of 8 to 12 random tokens, with labels or classes."""
    count = CLIENTS * TEXTS
    ids = fl.hf.draw_ids(model, count, LONGEST, "families")
    length = torch.arange(count) % 5 + LONGEST - 4
    ids = ids[:, [*range(LONGEST)]].clone()
    ids[torch.arange(count), length - 1] = ids[:, -1]
    is_token = torch.arange(LONGEST) < length[:, None]
    ids = ids.masked_fill(~is_token, 0)
    if task == "classify":
        return {"input_ids": ids, "length": length, "y": torch.arange(count) % len(CLASSES)}
    return {"input_ids": ids, "length": length, "labels": ids.masked_fill(~is_token, -100)}


@torch.no_grad()
def logits(model: Any, data: Examples) -> Tensor:
    """Return the logits of all texts, with 0 at padding."""
    config = model.config.get_text_config()
    scores: Tensor = model.eval()(**fl.hf.losses.inputs(data, getattr(config, "pad_token_id", None) or 0)).logits
    if scores.ndim < 3:
        return scores
    return scores * (torch.arange(scores.shape[1]) < data["length"][:, None])[:, :, None]


def _gap(first: Tensor, second: Tensor) -> float:
    gap = float((first - second).abs().max() / second.abs().max())
    return gap if gap == gap else float("inf")


def _line(error: Exception) -> str:
    frames = [each for each in traceback.extract_tb(error.__traceback__) if "fedloru" in each.filename]
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}{where}"


if __name__ == "__main__":
    main()
