"""Tiny models of any family of transformers, from the configurations of the benchmark of families."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def script(name: str) -> ModuleType:
    """Import a script of ``benchmarks/``."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
        assert spec and spec.loader
        if str(BENCHMARKS) not in sys.path:
            sys.path.append(str(BENCHMARKS))  # the scripts import each other by name
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]


def tiny(kind: str, *, classes: int | None = None, **settings: Any) -> Any:
    """Return an unprepared model of random weights, always the same."""
    import transformers

    config = script("family_configs").config(kind, classes)
    for name, value in settings.items():
        setattr(config, name, value)
    auto = transformers.AutoModelForCausalLM if classes is None else transformers.AutoModelForSequenceClassification
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return auto.from_config(config)
