"""Texts that a language model generated for test prompts, at the first and the last evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fedloru.report import blocks

PROMPTS = 6
"""The number of prompts shown on the page; generations.jsonl in the run folder has all of them."""


def cards(generated: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a card for each of the first prompts."""
    prompts: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for text in generated:
        prompts.setdefault((text["prompt"], text["reference"]), []).append(text)
    for number, ((prompt, reference), texts) in enumerate(list(prompts.items())[:PROMPTS], 1):
        rows = [("prompt", prompt), ("reference", reference)]
        rows += [(f"round {text['round']}", text["generated"]) for text in _first_and_last(texts)]
        yield blocks.card(f"Test prompt {number}", blocks.prose(rows), wide=True)


def _first_and_last(texts: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Return the first and the last of ``texts``, or only the last if both are from the same round."""
    return [texts[0], texts[-1]] if texts[0]["round"] != texts[-1]["round"] else [texts[-1]]
