"""The terms that pages explain are those of the glossary; ``UPDATE_DOCS=1 pytest`` on this file writes them there."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from fedloru.report.terms import TERMS, explained, named, used

GLOSSARY = Path(__file__).parents[2] / "docs" / "glossary.md"


@pytest.mark.parametrize("term", TERMS)
def test_the_glossary_explains_a_term_as_the_pages_do(term: str) -> None:
    text = GLOSSARY.read_text(encoding="utf-8")
    row = re.compile(rf"^\| \*\*{re.escape(term)}\*\*( \([^)]*\))? \| (.*) \|$", re.MULTILINE)
    found = row.search(text)
    assert found, f"docs/glossary.md has no row for {term!r}: add '| **{term}** | |'"
    if os.environ.get("UPDATE_DOCS"):
        GLOSSARY.write_text(text[: found.start(2)] + TERMS[term] + text[found.end(2) :], encoding="utf-8")
    else:
        assert found[2] == TERMS[term], f"docs/glossary.md is out of date: run UPDATE_DOCS=1 pytest {__file__}"


def test_the_first_occurrence_of_a_term_in_a_text_is_explained() -> None:
    html = explained('Merges add <factors> to a base; a merge of "factors"')
    assert re.sub(r' title="[^"]*"', "", html) == (
        "<abbr>Merges</abbr> add &lt;<abbr>factors</abbr>&gt; to a <abbr>base</abbr>; a merge of &quot;factors&quot;"
    )


def test_parts_of_words_are_not_terms() -> None:
    assert "<abbr" not in explained("baseline, submerged, database, envelope-like, refactors")


def test_only_whole_texts_are_explained_where_names_are_shown() -> None:
    assert named("version").startswith("<abbr") and named("version <3>") == "version &lt;3&gt;"
    assert "<abbr" not in explained("Partition statistics, torch version")


def test_the_terms_of_a_page_are_listed_once() -> None:
    html = explained("merges, Hessians, factors & merges") + named("envelope") + explained("a merge")
    assert used(html) == [(term, TERMS[term]) for term in ("envelope", "factors", "Hessian", "merge")]
