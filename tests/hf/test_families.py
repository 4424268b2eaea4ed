"""``benchmarks/families.py``: families that work, one that is refused, and the table in the documentation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.hf.families import script

DOCS = Path(__file__).parents[2] / "docs" / "language-models.md"


@pytest.mark.hf
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("kind", ["falcon", "qwen2_moe", "distilbert"])
def test_families_work_with_both_engines_and_exports(kind: str) -> None:
    families = script("families")
    row = families.attempt(kind, dict(families.kinds())[kind])
    assert (row.state, row.engine, row.adapter, row.merged) == ("works", "fused", "yes", "yes"), row.remark


@pytest.mark.hf
def test_a_family_that_is_refused_says_why() -> None:
    families = script("families")
    row = families.attempt("bert-generation", "causal")
    assert row.state == "refused" and "attends to later tokens" in row.remark


@pytest.mark.hf
@pytest.mark.slow
def test_a_family_that_takes_too_long_is_stopped() -> None:
    families = script("families")
    assert families.isolated("llama", "causal", 0.1).remark == "too slow"
    assert families.isolated("llama", "causal", 120.0).state == "works"


def test_the_table_in_the_docs_has_the_form_that_the_script_writes() -> None:
    families = script("families")
    lines = [line for line in DOCS.read_text().splitlines() if line.startswith("| ")]
    header, _ = families.table([]).splitlines()
    rows = [line[2:].split(" | ") for line in lines[lines.index(header) + 1 :]]
    states = {"works", "refused", "not built", "failed"}
    assert len(rows) > 150 and all(row[2] in states for row in rows)
    found = re.search(r"(\d+) work, .*?(\d+) are refused", DOCS.read_text())
    assert found is not None
    counted = [sum(row[2] == state for row in rows) for state in ("works", "refused")]
    assert counted == [int(number) for number in found.groups()]
