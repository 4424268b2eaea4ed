"""Runs of tiny models saved in a folder, and their exports loaded with transformers and PEFT alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedloru import hf, methods
from fedloru.data import Dataset, Partition
from fedloru.hf.losses import inputs
from fedloru.hf.source import quiet
from fedloru.method import Method
from fedloru.net import Net
from fedloru.recipe import Recipe
from fedloru.run.folder import RunFolder
from fedloru.run.loop import Run
from fedloru.run.plan import Plan
from tests.engine.cohort import jobs
from tests.hf.tiny import FAMILIES, texts

CLASSES = ("ham", "spam", "eggs")
ADAMW = Recipe("adamw", lr=0.02, batch_size=4, epochs=1)


def base(family: str, folder: Path, seed: int = 1) -> Path:
    """Save an unprepared model to ``folder`` unless it exists; a classifier is saved without its head."""
    import transformers

    if folder.exists():
        return folder
    transformers.utils.logging.disable_progress_bar()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made: Any = FAMILIES[family](transformers)
    (made.base_model if family == "bert" else made).save_pretrained(folder)
    return folder


def loaded(family: str, folder: Path, **settings: Any) -> torch.nn.Module:
    """Load the base as a run does."""
    if family == "bert":
        settings |= {"task": "classify", "classes": CLASSES}
    return hf.load(str(base(family, folder)), **settings)


def net(family: str, folder: Path, *, rank: int = 2, targets: list[str] | None = None, **settings: Any) -> Net:
    """Return a net of the base with factors."""
    return hf.attach(loaded(family, folder, **settings), rank=rank, alpha=3.0, targets=targets)


def plan(family: str, made: Net, method: Method | None = None, rounds: int = 4, **settings: Any) -> Plan:
    """Return a plan with a merge in each of the first three rounds and none in the last."""
    data = texts(family)
    dataset = Dataset("texts", data, data, CLASSES if family == "bert" else ())
    partition = Partition("by hand", 0, tuple(job.rows for job in jobs()), (), {})
    method = method or methods.fedloru(recipe="paper", tau=[1, 2, 3])
    usual = {"recipe": ADAMW, "checkpoint_every": 1, "diagnostics": False}
    return Plan(made, method, dataset, partition, rounds=rounds, cohort=3, **(usual | settings))


def trained(made: Plan, folder: Path) -> Run:
    """Train a plan, with a run folder."""
    run = Run(made, RunFolder.create(folder, {}, {}, imported=made.net.imported))
    list(run)
    return run


def logits(model: Any, family: str) -> Tensor:
    """Return the logits of all texts, with 0 at padding."""
    data = texts(family)
    with torch.no_grad():
        scores: Tensor = model.eval()(**inputs(data)).logits
    if scores.ndim < 3:
        return scores
    is_token = torch.arange(scores.shape[1]) < data["length"][:, None]
    return scores * is_token[:, :, None]


def auto(family: str) -> Any:
    """Return the auto class of transformers for a family."""
    import transformers

    return transformers.AutoModelForSequenceClassification if family == "bert" else transformers.AutoModelForCausalLM


def with_peft(family: str, folder: Path, adapter: Path, dtype: Any = torch.float32) -> Any:
    """Load an adapter and its base with PEFT and transformers alone."""
    import peft

    labels = {"num_labels": len(CLASSES)} if family == "bert" else {}
    with warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")
        plain = auto(family).from_pretrained(folder, dtype=dtype, **labels)
        return peft.PeftModel.from_pretrained(plain, adapter)


METHODS: dict[str, Callable[[], Method]] = {
    "fedlora": methods.fedlora,
    "fedloru-keep": lambda: methods.fedloru(recipe="paper", tau=2, reset="keep"),
    "fedloru-exact": lambda: methods.fedloru(recipe="paper", tau=2, accumulate="exact", accumulate_rank=3),
    "pfedloru": lambda: methods.METHODS["pfedloru"](tau=2),
    "mfedloru": lambda: methods.METHODS["mfedloru"](tau=2),
    "ffalora": methods.ffalora,
    "rolora": methods.rolora,
    "flora": methods.flora,
    "fedex": methods.fedex,
    "flexlora": methods.flexlora,
    "fedmud": lambda: methods.fedmud(interval=2),
}
"""Methods whose models are W₀ plus increments and factors."""
