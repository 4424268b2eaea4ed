"""The sections [data] for texts and [model] for language models, and the objects that they set up."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field

from fedloru import hf
from fedloru.config.derive import section
from fedloru.config.fields import Section
from fedloru.data import Dataset
from fedloru.hf import chat
from fedloru.hf.encode import Classify, Instruct, Plain
from fedloru.hf.generate import generations
from fedloru.hf.models import positions, tokenizer
from fedloru.hf.text import load
from fedloru.net import Net
from fedloru.run.plan import EvalHook
from fedloru.settings import Expected, Setting, settings_of
from fedloru.settings.types import Text
from fedloru.weight_reads import leave_out

SOURCE, PREFIX = "text", "hf:"
"""The name of the source of texts, and the prefix of the names of language models."""

KINDS: dict[str, Any] = {
    "instruct": Instruct,
    "classify": Classify,
    "plain": Plain,
}
KIND = Setting(
    "kind",
    Literal["instruct", "classify", "plain"],
    "instruct",
    "prompts with responses, texts with classes, or texts to continue",
)
ADAPTER = Setting("adapter", Text | None, None, "a folder with a PEFT adapter to merge into the model before round 1")


def text_form(base: type[Section], meaning: str) -> type[Section]:
    """Return the form of [data] for texts; ``base`` has the settings that all sources have in common."""
    skip = frozenset({"tokenizer", "kind", "positions", *base.model_fields})
    columns = {name: setting for kind in KINDS.values() for name, setting in settings_of(kind).items()}
    settings = [*settings_of(load, skip=skip).values(), KIND, *columns.values()]
    named = Setting("source", Literal["text"], SOURCE, meaning)
    doc = "Texts for a language model: instructions, texts with classes, or plain texts."
    return section("text", doc, [named, *settings], base)


def model_form(base: type[Section], meaning: str) -> type[Section]:
    """Return the form of [model] for language models; ``base`` has the settings that all models have in common."""
    skip = frozenset({"name", "task", "classes", *base.model_fields})
    pattern = Annotated[str, Field(pattern=rf"^{PREFIX}.+$"), Expected("'hf:FOLDER' or 'hf:OWNER/NAME'")]
    named = Setting("name", pattern, f"{PREFIX}FOLDER", meaning)
    doc = "A transformers language model, from a folder or the hub; with classes, a classifier of texts."
    return section("hf", doc, [named, *settings_of(hf.load, skip=skip).values(), ADAPTER], base)


def is_text(data: Section) -> bool:
    """Return whether the section [data] describes texts."""
    return bool(data.source == SOURCE)


def is_language_model(model: Section) -> bool:
    """Return whether the section [model] names a language model."""
    return str(model.name).startswith(PREFIX)


def texts(data: Section, model: Section) -> Dataset:
    """Load the texts of a configuration with the tokenizer of its model.

    Raises:
        DataError: the texts or the tokenizer cannot be used.
        ModelError: the model has no tokenizer.
    """
    given = data.model_dump()
    kind = KINDS[data.kind]
    others = {name for each in KINDS.values() for name in each._fields} | {"source", "kind", "path"}
    return load(
        tokenizer(**_place(model)),
        data.path,
        kind(**{name: given[name] for name in kind._fields}),
        positions=positions(**_place(model)),
        **{name: value for name, value in given.items() if name not in others},
    )


def prints_date(data: Section, model: Section) -> bool:
    """Return whether the texts contain the date on which they are read, because a chat template prints it.

    Raises:
        ModelError: the model has no tokenizer.
    """
    if not (is_text(data) and is_language_model(model)) or data.kind != "instruct" or data.date is not None:
        return False
    return chat.prints_date(tokenizer(**_place(model)))


def generation_hook(eval: Section, model: Section, dataset: Dataset, seed: int) -> EvalHook:
    """Return an evaluation hook that generates continuations of test prompts.

    Raises:
        DataError: no prompt leaves room for new tokens.
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


def language_net(model: Section, lowrank: dict[str, Any] | None, dataset: Dataset, seed: int) -> Net:
    """Load the model of a configuration as a net: with factors, or without if ``lowrank`` is None.

    If ``dataset`` has classes, the model classifies texts, with a new head that is drawn from ``seed``.

    Raises:
        ModelError: the model or its adapter cannot be loaded, or the model does not support the task or lacks the
            layers.
    """
    settings = model.model_dump(exclude={"name", "adapter", "seed", *_place(model)})
    task: Literal["causal", "classify"] = "classify" if dataset.classes else "causal"
    loaded = hf.load(**_place(model), task=task, classes=dataset.classes, seed=seed, **settings)
    if lowrank is None:
        net = hf.make(loaded)
    else:
        attach = partial(hf.attach, loaded)
        net = leave_out(attach(**lowrank), dataset.train, lambda layers: attach(**lowrank | {"targets": layers}))
    return net if model.adapter is None else hf.adopt(net, model.adapter)


def _place(model: Section) -> dict[str, Any]:
    name = model.name.removeprefix(PREFIX)
    return {"name": name, "revision": model.revision, "trust_remote_code": model.trust_remote_code}
