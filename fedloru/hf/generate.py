"""Generate text at every evaluation, and compare its final answers with those of the references.

Prompts are sampled from the test examples and continued greedily, until an end token of the tokenizer, of its chat
template or of the model. The final answer of a text is what follows ``####``, as in GSM8K (Cobbe et al. 2021, arXiv
2110.14168), or else its last number.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal, DecimalException
from itertools import takewhile
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedloru.data.dataset import Examples, size
from fedloru.errors import DataError
from fedloru.hf.blocks import IGNORED
from fedloru.hf.ends import end_tokens, model_ends, note_ordinary
from fedloru.hf.source import library
from fedloru.net import Net, mode, unshared, use_tensors
from fedloru.rng import gen
from fedloru.tree import Params

MARK = "####"
NUMBER = re.compile(r"(?:(?<![\d)])-)?\$?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")
BATCH = 16
"""The number of prompts in a batch."""


class Prompt(NamedTuple):
    """The tokens of a prompt, and those of its reference continuation in the data."""

    prompt: list[int]
    reference: list[int]


def generations(
    tokenizer: Any, test: Examples, count: int, max_new_tokens: int, *, seed: int = 0, positions: int | None = None
) -> Callable[[Net, Params], dict[str, Any]]:
    """Return an evaluation hook that continues ``count`` prompts of ``test``, sampled by ``seed``.

    The hook returns ``generations``, a list of prompts, references and generated texts, and, if references have a
    final answer, ``exact_match``, the fraction of them for which the model's final answer is the same. ``positions``
    is the maximum sequence length of the model.

    Raises:
        DataError: no example has a complete response and room for ``max_new_tokens`` after its prompt.
    """
    ends = end_tokens(tokenizer)
    chosen = _sample(test, ends, count, seed, max_new_tokens, positions)
    prompts, references = (
        [tokenizer.decode(ids, skip_special_tokens=True) for ids in each] for each in zip(*chosen, strict=True)
    )

    def hook(net: Net, tensors: Params) -> dict[str, Any]:
        stops = list(dict.fromkeys([*ends, *model_ends(net.model)]))
        note_ordinary(tokenizer, stops)
        generated = write(net, tensors, [each.prompt for each in chosen], max_new_tokens, stops)
        texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in generated]
        lines = [
            {"prompt": prompt, "reference": reference, "generated": text}
            for prompt, reference, text in zip(prompts, references, texts, strict=True)
        ]
        share = exact_match(references, texts)
        return {"generations": lines} | ({} if share is None else {"exact_match": share})

    return hook


def _sample(
    test: Examples, ends: Sequence[int], count: int, seed: int, max_new_tokens: int, positions: int | None
) -> list[Prompt]:
    chosen: list[Prompt] = []
    for row in torch.randperm(size(test), generator=gen(seed, "generations")).tolist():
        length = int(test["length"][row])
        example = split(test["input_ids"][row, :length].tolist(), test["labels"][row, :length].tolist(), ends)
        if example and (positions is None or len(example.prompt) + max_new_tokens <= positions):
            chosen.append(example)
        if len(chosen) == count:
            break
    if not chosen:
        room = "" if positions is None else f" and a prompt of at most {positions - max_new_tokens} tokens"
        raise DataError(
            f"no test example has a complete response{room} that leaves room for {max_new_tokens} new tokens: lower "
            "eval.max_new_tokens, raise data.max_length, or set eval.generations = 0"
        )
    return chosen


def split(ids: list[int], labels: list[int], ends: Sequence[int]) -> Prompt | None:
    """Return the first prompt and its response, or the two halves of a plain text; None if the response was truncated.

    The prompt is the tokens before the first label, and the response is complete if it contains one of ``ends``.
    """
    start = next((i for i, label in enumerate(labels) if label != IGNORED), len(labels))
    if start == 0:
        half = len(ids) // 2
        return Prompt(ids[:half], ids[half:])
    stop = next((i for i in range(start, len(labels)) if labels[i] == IGNORED), len(labels))
    return Prompt(ids[:start], ids[start:stop]) if set(ends) & set(ids[start:stop]) else None


@torch.no_grad()
def write(
    net: Net, tensors: Params, prompts: Sequence[list[int]], max_new_tokens: int, ends: Sequence[int]
) -> list[list[int]]:
    """Return the tokens that the model with ``tensors`` generates greedily after each prompt, before any of ``ends``.

    Raises:
        MissingExtraError: transformers is not installed.
    """
    settings = library("transformers").GenerationConfig(
        max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=list(ends), pad_token_id=ends[0], use_cache=True
    )
    model: Any = net.model
    device = next(iter(tensors.values())).device
    generated: list[list[int]] = []
    with mode(net, False), use_tensors(net, unshared(net, tensors)):
        for ids, mask in _padded(prompts, ends[0], device):
            output = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)
            generated += output[:, ids.shape[1] :].tolist()
    return [list(takewhile(lambda token: token not in ends, ids)) for ids in generated]


def _padded(prompts: Sequence[list[int]], pad: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of prompts (b, T), padded on the left, and their attention masks (b, T)."""
    for start in range(0, len(prompts), BATCH):
        batch = prompts[start : start + BATCH]
        longest = max(map(len, batch))
        ids = [[pad] * (longest - len(prompt)) + prompt for prompt in batch]
        mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in batch]
        yield torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def exact_match(references: Sequence[str], texts: Sequence[str]) -> float | None:
    """Return the fraction of ``texts`` with the final answer of their reference; None if no reference has one.

    A reference has a final answer if it contains the mark ``####``, or is only a number.
    """
    answered = [
        (final_answer(reference), text)
        for reference, text in zip(references, texts, strict=True)
        if MARK in reference or NUMBER.fullmatch(reference.strip())
    ]
    return sum(answer == final_answer(text) for answer, text in answered) / len(answered) if answered else None


def final_answer(text: str) -> str | None:
    """Return the final answer of ``text``, with numbers in their shortest form; None if there is none."""
    _, mark, after = text.rpartition(MARK)
    if mark:
        line = after.strip().partition("\n")[0]
        number = NUMBER.match(line.lstrip("*_ "))
        return _normalized(number[0] if number else line)
    numbers = NUMBER.findall(text)
    return _normalized(numbers[-1]) if numbers else None


def _normalized(answer: str) -> str:
    plain = re.sub(r"[$%,\s]", "", answer).rstrip(".")
    try:
        return f"{Decimal(plain).normalize() + 0:f}"  # adding 0 turns -0 into 0
    except DecimalException:
        return " ".join(answer.casefold().split()).rstrip(".")
