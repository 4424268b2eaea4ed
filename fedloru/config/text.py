"""From the sections of a configuration to texts as data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fedloru.config.forms import LanguageModel, TextData
from fedloru.config.schema import Eval
from fedloru.data import Dataset
from fedloru.hf.encode import Classify, Instruct, Kind, Plain
from fedloru.hf.generate import generations
from fedloru.hf.pretrained import positions, tokenizer
from fedloru.hf.text import load
from fedloru.net import Net
from fedloru.tree import Params


def texts(data: TextData, model: LanguageModel) -> Dataset:
    """Load the texts of a configuration, with the tokenizer of its model.

    Raises:
        DataError: the texts, or the tokenizer, do not serve.
        ModelError: the model has no tokenizer.
    """
    name = model.name.removeprefix("hf:")
    return load(
        tokenizer(name, revision=model.revision),
        data.path,
        _kind(data),
        test=data.test,
        subset=data.subset,
        columns=data.columns,
        max_length=data.max_length,
        pack=data.pack,
        test_fraction=data.test_fraction,
        seed=data.seed,
        positions=positions(name, revision=model.revision),
    )


def writing(eval: Eval, model: LanguageModel, dataset: Dataset, seed: int) -> Callable[[Net, Params], dict[str, Any]]:
    """Return what lets the model write on after prompts of the test examples.

    Raises:
        DataError: no prompt leaves room to write.
        ModelError: the model has no tokenizer.
    """
    name = model.name.removeprefix("hf:")
    return generations(
        tokenizer(name, revision=model.revision),
        dataset.test,
        eval.generations,
        eval.max_new_tokens,
        seed=seed,
        positions=positions(name, revision=model.revision),
    )


def _kind(data: TextData) -> Kind:
    if data.kind == "instruct":
        return Instruct(data.prompt, data.context, data.response, data.template)
    if data.kind == "classify":
        return Classify(data.text, data.label, tuple(data.labels))
    return Plain(data.text)
