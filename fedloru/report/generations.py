"""What a language model wrote after test prompts, at the first and at the last evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fedloru.report import blocks

PROMPTS = 6
"""So many prompts are on the page; the others are in the folder's generations.jsonl."""


def cards(written: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a card for each of the first prompts."""
    prompts: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for text in written:
        prompts.setdefault((text["prompt"], text["reference"]), []).append(text)
    for number, ((prompt, reference), texts) in enumerate(list(prompts.items())[:PROMPTS], 1):
        rows = [("prompt", prompt), ("the data", reference)]
        rows += [(f"round {text['round']}", text["generated"]) for text in _ends(texts)]
        yield blocks.card(f"Test prompt {number}", blocks.prose(rows), wide=True)


def _ends(texts: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Return the first and the last of ``texts``, once where they are the same."""
    return [texts[0], texts[-1]] if texts[0]["round"] != texts[-1]["round"] else [texts[-1]]
