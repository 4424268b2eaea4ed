"""The parts of a page specific to language models: perplexity, other scores, and generated texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedloru.errors import RunFolderError
from fedloru.report import Records, figures, page, read
from fedloru.report.generations import PROMPTS

from .test_page import Parsed


def texts(prompts: int, rounds: tuple[int, ...]) -> list[dict[str, Any]]:
    return [
        {"round": t, "prompt": f"Ask {i}", "reference": f"say {i}\nat once", "generated": f"<b>round {t} of {i}</b>"}
        for t in rounds
        for i in range(prompts)
    ]


def save(folder: Path, lines: list[dict[str, Any]], torn: str = "") -> None:
    (folder / "generations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + torn)


def test_texts_from_the_first_and_the_last_evaluation_are_shown(run: Path) -> None:
    save(run, texts(2, (10, 20, 30)))
    parsed = Parsed(page(read(run)))
    for expected in ("Test prompt 2 prompt Ask 1 reference say 1 at once round 10", "<b>round 30 of 1</b>"):
        assert expected in parsed.text
    assert "<b>round 20 of 1</b>" not in parsed.text
    assert "<b>" not in page(read(run)).replace("<body>", "")


def test_a_single_evaluation_is_shown_once_and_prompts_are_limited(run: Path) -> None:
    save(run, texts(PROMPTS + 1, (50,)))
    text = Parsed(page(read(run))).text
    assert text.count("<b>round 50 of 0</b>") == 1
    assert f"Test prompt {PROMPTS}" in text and f"Test prompt {PROMPTS + 1}" not in text


def test_a_run_without_generated_texts_has_no_section_for_them(records: Records) -> None:
    assert "Generated texts" not in Parsed(page(records)).text


def test_a_partial_last_line_is_ignored_and_a_damaged_one_is_an_error(run: Path) -> None:
    save(run, texts(1, (1,)), torn='{"round": 2, "pro')
    assert len(read(run).written) == 1
    save(run, [*texts(1, (1,)), {"round": 2}])
    with pytest.raises(RunFolderError, match="line 2, has no generated, prompt, reference: it is not a generated text"):
        read(run)


def test_a_language_model_is_reported_by_its_perplexity(records: Records) -> None:
    def with_perplexity(row: dict[str, Any]) -> dict[str, Any]:
        measured = row["test_accuracy"] is not None
        return row | ({"test_perplexity": 500.0 / row["round"], "exact_match": 0.25} if measured else {})

    language = records._replace(rounds=[with_perplexity(row) for row in records.rounds], summary={})
    parsed = Parsed(page(language))
    assert "Perplexity 10.000 of the test tokens" in parsed.text and "Mean accuracy" not in parsed.text
    assert {"perplexity-over-rounds", "other-scores"} <= set(parsed.ids)
    figure = figures.perplexity(language)
    assert figure.data[0].y[-1] == 10.0 and figure.layout.yaxis.type == "log"
    assert list(figures.shares(language).data[0].y) == [0.25] * len(figure.data[0].y)
