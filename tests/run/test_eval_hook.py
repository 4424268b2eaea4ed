"""The evaluation hook: its results are added to rows, and generated texts are written to their own file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedloru import tree
from fedloru.errors import RunFolderError
from fedloru.net import Net
from fedloru.run.folder import RunFolder
from fedloru.run.loop import Run
from fedloru.tree import Params
from tests.run.test_run import plan


def hook(net: Net, tensors: Params) -> dict[str, Any]:
    assert tensors.keys() == net.params.keys() | net.buffers.keys()
    name = tree.digest(tensors)
    return {"digest": name, "generations": [{"prompt": "a", "generated": name}, {"prompt": "b", "generated": name}]}


def test_results_of_the_hook_are_added_to_rows_of_evaluations() -> None:
    rows = list(Run(plan(eval_hook=hook, eval_every=4)))
    assert ["digest" in row for row in rows] == [False, False, False, True, False, True]
    assert [row["test_f1"] is None for row in rows] == [row["test_accuracy"] is None for row in rows]
    assert rows[3]["digest"] != rows[5]["digest"] and len(rows[3]["generations"]) == 2


def test_generated_texts_are_truncated_when_a_run_resumes(tmp_path: Path) -> None:
    whole = RunFolder.create(tmp_path / "whole", {}, {})
    rows = list(Run(plan(eval_hook=hook, eval_every=2, checkpoint_every=3), whole))
    file = whole.path / "generations.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [each["round"] for each in lines] == [0, 0, 2, 2, 4, 4, 6, 6]
    assert [each["generated"] for each in lines[2::2]] == [rows[round - 1]["digest"] for round in (2, 4, 6)]
    assert "generations" not in (whole.path / "rounds.jsonl").read_text()
    before = file.read_bytes()
    with file.open("a") as left:
        left.write('{"round": 6, "pro')  # as left by a run that is killed while it is writing
    again = RunFolder.open(whole.path)
    list(Run(plan(eval_hook=hook, eval_every=2, checkpoint_every=3), again, again.latest("cpu", 3)))
    assert file.read_bytes() == before
    file.write_text("nothing\n")
    with pytest.raises(RunFolderError, match="generations\\.jsonl has a damaged line"):
        RunFolder.open(whole.path).go_back(3, 1)
