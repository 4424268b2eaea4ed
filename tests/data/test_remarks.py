"""Remarks: sentences about how data was read, from the source to the command line and the page."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

import fedloru as fl
from fedloru.data import Raw, Rows, load
from fedloru.data.raw import unread
from fedloru.report import write

REMARK = "2 files not read (not images): a.gif, <b>.tif"


def source() -> Raw:
    g = torch.Generator().manual_seed(0)
    return Raw(Rows(torch.randn(40, 4, generator=g), np.arange(40) % 2), remarks=(REMARK,))


def test_unread_counts_and_names() -> None:
    assert unread([], "not images") == ()
    assert unread(["a.gif", "<b>.tif"], "not images") == (REMARK,)
    (many,) = unread([f"{n}" for n in range(1200)], "hidden", "folder")
    assert many.startswith("1,200 folders not read (hidden): 0, 1, ") and many.endswith("9 and 1190 more")


def test_remarks_are_logged_recorded_and_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "fedloru"):
        data = load(f"python:{__name__}:source")
    assert caplog.messages == [REMARK] and data.remarks == (REMARK,)
    partition = fl.data.iid(data, 2)
    net = fl.attach(torch.nn.Linear(4, 2), rank=1)
    list(fl.run(net, fl.methods.fedavg(), data, partition, rounds=1, cohort=1, out=tmp_path / "run"))
    assert json.loads((tmp_path / "run/partition.json").read_text())["remarks"] == [REMARK]
    page = write(tmp_path / "run").read_text("utf-8")
    assert '<p class="note">2 files not read (not images): a.gif, &lt;b&gt;.tif</p>' in page
