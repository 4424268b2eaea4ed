"""Cut and join tokenized examples into blocks of a given size."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

IGNORED = -100
"""The label of a token without a loss."""


class Tokens(NamedTuple):
    """One example: its tokens, one label per token for a causal model, and the row of the table that it starts in."""

    row: int
    ids: list[int]
    labels: list[int]


def cut_into(ids: list[int], size: int) -> list[list[int]]:
    """Return ``ids`` in blocks of ``size``; a final block of one token is dropped: it has nothing to predict."""
    return [ids[start : start + size] for start in range(0, len(ids), size) if len(ids) - start > 1]


def packed(examples: Sequence[Tokens], max_length: int, *, whole: bool) -> list[Tokens]:
    """Pack examples into blocks of up to ``max_length`` tokens.

    If ``whole``, no example is split. Otherwise all examples form one stream with a loss on every token, and every
    block but the last is full. Attention is not masked: tokens attend to the earlier examples of their block.
    """
    if not whole:
        stream = list(chain.from_iterable(example.ids for example in examples))
        return [Tokens(examples[0].row, block, block) for block in cut_into(stream, max_length)]
    return [_joined(block) for block in _best_fit(examples, max_length)]


def _best_fit(examples: Sequence[Tokens], size: int) -> list[list[Tokens]]:
    """Put each example, longest first, into the fullest block with room for it (Ding et al. 2024, arXiv 2404.10830)."""
    blocks: list[list[Tokens]] = []
    with_room: list[list[int]] = [[] for _ in range(size + 1)]
    for example in sorted(examples, key=lambda each: -len(each.ids)):
        need = len(example.ids)
        room = next((room for room in range(need, size + 1) if with_room[room]), None)
        if room is None:
            block, room = len(blocks), size
            blocks.append([])
        else:
            block = with_room[room].pop()
        blocks[block].append(example)
        with_room[room - need].append(block)
    return blocks


def _joined(block: Sequence[Tokens]) -> Tokens:
    ids, labels = (list(chain.from_iterable(lists)) for lists in ([e.ids for e in block], [e.labels for e in block]))
    return Tokens(block[0].row, ids, labels)
