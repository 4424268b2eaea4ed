"""A run from Python that began before some settings existed resumes if they have their defaults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import fedloru as fl
from fedloru.errors import RunFolderError

ADDED = ("keep_best", "best", "min_delta", "clients")


def started(out: Path, **settings: Any) -> fl.Run:
    y = torch.arange(24) % 2
    data = fl.data.from_tensors(torch.eye(2)[y], y, test=(torch.eye(2), torch.arange(2)))
    net = fl.make(fl.models.build("mlp", channels=2, size=1, classes=2, seed=0, hidden=(3,)))
    return fl.run(net, fl.fedavg(), data, fl.data.iid(data, 4), rounds=4, cohort=2, out=out, **settings)


def stopped(out: Path) -> None:
    """Stop a run after its first round, and remove later settings from the record of its configuration."""
    next(iter(started(out)))
    path = out / "checkpoint" / "config.json"
    config = json.loads(path.read_text("utf-8"))
    for name in ADDED:
        del config["eval"][name]
    path.write_text(json.dumps(config))


def test_new_settings_with_their_defaults_are_no_change(tmp_path: Path) -> None:
    stopped(tmp_path / "run")
    assert [row["round"] for row in started(tmp_path / "run", resume=True)] == [2, 3, 4]


def test_new_settings_with_other_values_are_refused(tmp_path: Path) -> None:
    stopped(tmp_path / "run")
    with pytest.raises(RunFolderError, match=r"eval\.keep_best was False, is True"):
        started(tmp_path / "run", resume=True, keep_best=True)
