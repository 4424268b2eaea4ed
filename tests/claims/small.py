"""A small task, and the benchmark on it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import claims
import pytest
import torch
from claim.contenders import Federation
from claim.runs import Job, train

import fedloru as fl

NOWHERE = Path("nowhere")
SMALL = Federation("small", 4, 2)
CHOSEN = ("fedavg", "fedlora", "fedloru-paper-best")


def examples(folder: Path, seed: int) -> fl.data.Dataset:
    """Return made-up vectors of three classes, which a perceptron can learn."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(120) % 3
    x = torch.randn(120, 12, generator=generator) + 3 * torch.nn.functional.one_hot(y, 12)
    return fl.data.Dataset("small", {"x": x[:90], "y": y[:90]}, {"x": x[90:], "y": y[90:]}, ("a", "b", "c"))


def start(monkeypatch: pytest.MonkeyPatch, out: Path, *arguments: str) -> list[Job]:
    """Run the benchmark in this process with two seeds, and return the jobs that it trained."""
    trained: list[Job] = []

    def counted(job: Job, folder: Path) -> dict[str, Any]:
        trained.append(job)
        return train(job, folder)

    monkeypatch.setattr(claims, "train", counted)
    common = ["--data-dir", str(NOWHERE), "--part", "a", "--seeds", "2", "--jobs", "1", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["claims.py", *common, *arguments])
    claims.main()
    return trained


def lines(out: Path) -> list[str]:
    return (out / "small.jsonl").read_text("utf-8").splitlines()
