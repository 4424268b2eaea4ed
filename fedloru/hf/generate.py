"""What a model writes, so that a person can read it, and whether its final answers are right.

Prompts are drawn from the test examples and continued greedily. A final answer is what follows ``####``, as in GSM8K
(Cobbe et al. 2021, arXiv 2110.14168), or else the last number of the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal, DecimalException
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedloru.data.dataset import Examples, size
from fedloru.errors import DataError, MissingExtraError
from fedloru.hf.blocks import IGNORED
from fedloru.net import Net, holding, mode, unshared
from fedloru.rng import gen
from fedloru.tree import Params

MARK = "####"
NUMBER = re.compile(r"(?:(?<![\d)])-)?\$?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")
BATCH = 16
"""Prompts that are continued together."""


class Asked(NamedTuple):
    """The tokens of a prompt, and those that the data goes on with."""

    prompt: list[int]
    reference: list[int]


def generations(
    tokenizer: Any, test: Examples, count: int, max_new_tokens: int, *, seed: int = 0, positions: int | None = None
) -> Callable[[Net, Params], dict[str, Any]]:
    """Return what lets a model write on after ``count`` prompts of ``test``, drawn by ``seed``, at every evaluation.

    It gives ``generations``, a list of prompt, reference and generated text, and where references have a final answer,
    ``exact_match``, the share of them that the model comes to. ``positions`` is how many tokens the model takes.

    Raises:
        DataError: no example has a whole response, and room for ``max_new_tokens`` after its prompt.
    """
    chosen = _drawn(test, tokenizer.eos_token_id, count, seed, max_new_tokens, positions)
    prompts, references = (
        [tokenizer.decode(ids, skip_special_tokens=True) for ids in each] for each in zip(*chosen, strict=True)
    )

    def hook(net: Net, tensors: Params) -> dict[str, Any]:
        written = write(net, tensors, [asked.prompt for asked in chosen], max_new_tokens, tokenizer.eos_token_id)
        texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in written]
        lines = [
            {"prompt": prompt, "reference": reference, "generated": text}
            for prompt, reference, text in zip(prompts, references, texts, strict=True)
        ]
        share = exact_match(references, texts)
        return {"generations": lines} | ({} if share is None else {"exact_match": share})

    return hook


def _drawn(test: Examples, end: int, count: int, seed: int, max_new_tokens: int, positions: int | None) -> list[Asked]:
    found: list[Asked] = []
    for row in torch.randperm(size(test), generator=gen(seed, "generations")).tolist():
        length = int(test["length"][row])
        asked = split(test["input_ids"][row, :length].tolist(), test["labels"][row, :length].tolist(), end)
        if asked and (positions is None or len(asked.prompt) + max_new_tokens <= positions):
            found.append(asked)
        if len(found) == count:
            break
    if not found:
        room = "" if positions is None else f" and a prompt of at most {positions - max_new_tokens} tokens"
        raise DataError(
            f"no test example has a whole response{room} to be continued by {max_new_tokens}: lower "
            "eval.max_new_tokens, raise data.max_length, or set eval.generations = 0"
        )
    return found


def split(ids: list[int], labels: list[int], end: int) -> Asked | None:
    """Return the first prompt and its response; of a text without a prompt, both halves; None where the end was cut."""
    start = next((i for i, label in enumerate(labels) if label != IGNORED), len(labels))
    if start == 0:
        half = len(ids) // 2
        return Asked(ids[:half], ids[half:])
    stop = next((i for i in range(start, len(labels)) if labels[i] == IGNORED), len(labels))
    return Asked(ids[:start], ids[start:stop]) if end in ids[start:stop] else None


@torch.no_grad()
def write(net: Net, tensors: Params, prompts: Sequence[list[int]], max_new_tokens: int, end: int) -> list[list[int]]:
    """Return the tokens that the model with ``tensors`` writes greedily after each prompt, until ``end``.

    Raises:
        MissingExtraError: transformers is not installed.
    """
    try:
        from transformers import GenerationConfig
    except ModuleNotFoundError as error:
        raise MissingExtraError("transformers", "hf", "a language model that writes") from error
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=end, pad_token_id=end, use_cache=True
    )
    model: Any = net.model
    device = next(iter(tensors.values())).device
    written: list[list[int]] = []
    with mode(net, False), holding(net, unshared(net, tensors)):
        for ids, mask in _padded(prompts, end, device):
            made = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)
            written += made[:, ids.shape[1] :].tolist()
    return written


def _padded(prompts: Sequence[list[int]], pad: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield prompts batch by batch, padded on the left, (b, T), and the mask of their tokens."""
    for start in range(0, len(prompts), BATCH):
        batch = prompts[start : start + BATCH]
        longest = max(map(len, batch))
        ids = [[pad] * (longest - len(prompt)) + prompt for prompt in batch]
        mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in batch]
        yield torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def exact_match(references: Sequence[str], texts: Sequence[str]) -> float | None:
    """Return the share of ``texts`` that come to the final answer of their reference; None where none has one.

    A reference has a final answer where it marks one, or is nothing but a number.
    """
    known = [
        (final_answer(reference), text)
        for reference, text in zip(references, texts, strict=True)
        if MARK in reference or NUMBER.fullmatch(reference.strip())
    ]
    return sum(answer == final_answer(text) for answer, text in known) / len(known) if known else None


def final_answer(text: str) -> str | None:
    """Return the final answer of ``text``, a number in its shortest form; None where there is none."""
    _, mark, after = text.rpartition(MARK)
    if mark:
        line = after.strip().partition("\n")[0]
        number = NUMBER.match(line.lstrip("*_ "))
        return _normal(number[0] if number else line)
    numbers = NUMBER.findall(text)
    return _normal(numbers[-1]) if numbers else None


def _normal(answer: str) -> str:
    plain = re.sub(r"[$%,\s]", "", answer).rstrip(".")
    try:
        return f"{Decimal(plain).normalize() + 0:f}"  # 0 for -0
    except DecimalException:
        return " ".join(answer.casefold().split()).rstrip(".")
