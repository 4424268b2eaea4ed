"""From the sections of a configuration to texts as data, and to the language model that reads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from fedloru import hf
from fedloru.config.forms import LanguageModel, TextData
from fedloru.config.schema import Eval, LowRank
from fedloru.data import Dataset
from fedloru.hf.encode import Classify, Instruct, Kind, Plain
from fedloru.hf.generate import generations
from fedloru.hf.models import positions, tokenizer
from fedloru.hf.text import load
from fedloru.net import Net
from fedloru.tree import Params


def texts(data: TextData, model: LanguageModel) -> Dataset:
    """Load the texts of a configuration, with the tokenizer of its model.

    Raises:
        DataError: the texts, or the tokenizer, do not serve.
        ModelError: the model has no tokenizer.
    """
    return load(
        tokenizer(**_place(model)),
        data.path,
        _kind(data),
        test=data.test,
        subset=data.subset,
        columns=data.columns,
        max_length=data.max_length,
        pack=data.pack,
        test_fraction=data.test_fraction,
        seed=data.seed,
        positions=positions(**_place(model)),
    )


def writing(eval: Eval, model: LanguageModel, dataset: Dataset, seed: int) -> Callable[[Net, Params], dict[str, Any]]:
    """Return what lets the model write on after prompts of the test examples.

    Raises:
        DataError: no prompt leaves room to write.
        ModelError: the model has no tokenizer.
    """
    return generations(
        tokenizer(**_place(model)),
        dataset.test,
        eval.generations,
        eval.max_new_tokens,
        seed=seed,
        positions=positions(**_place(model)),
    )


def language_net(model: LanguageModel, lowrank: LowRank | None, classes: Sequence[str], seed: int) -> Net:
    """Load the model of a configuration as a net: with factors, or without ``lowrank`` to train every weight.

    It classifies texts where there are ``classes``; a fresh head is drawn by ``seed``.

    Raises:
        ModelError: the model cannot be loaded, does not serve the task, or has no such layers; or its adapter cannot.
    """
    loaded = hf.load(
        **_place(model),
        task="classify" if classes else "causal",
        classes=classes,
        dtype=getattr(torch, model.dtype),
        attention=model.attention,
        checkpointing=model.checkpointing,
        seed=seed,
    )
    net = hf.make(loaded) if lowrank is None else hf.attach(loaded, **lowrank.model_dump(exclude={"capacities"}))
    return net if model.adapter is None else hf.adopt(net, model.adapter)


def _place(model: LanguageModel) -> dict[str, Any]:
    name = model.name.removeprefix("hf:")
    return {"name": name, "revision": model.revision, "trust_remote_code": model.trust_remote_code}


def _kind(data: TextData) -> Kind:
    if data.kind == "instruct":
        return Instruct(data.prompt, data.context, data.response, data.template)
    if data.kind == "classify":
        return Classify(data.text, data.label, tuple(data.labels))
    return Plain(data.text)
