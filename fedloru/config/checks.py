"""Checks of settings that are valid individually, but contradict each other or have no effect."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from inspect import signature
from typing import Any
from urllib.parse import urlsplit

from fedloru.config.fields import Section, shown
from fedloru.config.methods import assembled, wrapper_sections
from fedloru.config.texts import is_language_model, is_text
from fedloru.errors import ConfigError
from fedloru.recipe import Recipe
from fedloru.settings import When, one_of

WITHOUT_COLUMNS = ("mnist5k", "digits", "synthetic", "folder")
"""The sources that have no columns besides the examples and labels."""


def conflicts(valid: Mapping[str, Section]) -> Iterator[str]:
    """Yield the problems of combinations of settings, among the sections that are ``valid`` individually."""
    for name, section in valid.items():
        yield from _unused(name, section)
    for check in CHECKS:
        names = signature(check).parameters.keys()
        if names <= valid.keys():
            yield from check(**{name: valid[name] for name in names})
    if {"method", "client", *wrapper_sections()} <= valid.keys():
        yield from _method_fits(valid)


def _unused(name: str, section: Section) -> Iterator[str]:
    """Yield the settings that have no effect according to their declarations."""
    for key, field in type(section).model_fields.items():
        when = next((item for item in field.metadata if isinstance(item, When)), None)
        value = getattr(section, key)
        if when and value and getattr(section, when.key) not in when.values and value != field.default:
            yield (
                f"{name}.{key} is {shown(value)}, but {name}.{when.key} = '{getattr(section, when.key)}' does not "
                f"use it: remove it, or set {name}.{when.key} = {one_of(when.values)}"
            )


def _method_fits(valid: Mapping[str, Section]) -> Iterator[str]:
    """Yield the problems that the method and its wrappers report."""
    try:
        assembled(valid, Recipe(**valid["client"].model_dump()), clients=1)
    except ConfigError as error:
        yield from (problem if "." in problem.split()[0] else f"method: {problem}" for problem in error.problems)


def _cohort_fits(cohort: Section, partition: Section) -> Iterator[str]:
    clients = getattr(partition, "clients", None)
    if clients is not None and cohort.size > clients:
        yield (
            f"cohort.size is {cohort.size}, but partition.clients is {clients}: lower cohort.size, or raise "
            "partition.clients"
        )


def _data_has_columns(data: Section, partition: Section) -> Iterator[str]:
    if partition.scheme == "natural" and data.source in WITHOUT_COLUMNS:
        yield f"partition.scheme is 'natural', but data.source = '{data.source}' has no columns to define clients"


def _texts_are_read(data: Section, model: Section) -> Iterator[str]:
    texts, language = is_text(data), is_language_model(model)
    if texts and not language:
        yield f"data.source is 'text', but model.name = '{model.name}' takes no texts: set model.name = 'hf:FOLDER'"
    if language and not texts:
        yield f"model.name is '{model.name}', but data.source = '{data.source}' has no texts: set data.source = 'text'"


def _weights_are_loaded(model: Section, wire: Section) -> Iterator[str]:
    if is_language_model(model) and wire.first_download:
        yield (
            f"wire.first_download is true, but every client loads model.name = '{model.name}' itself, so its "
            "frozen weights are never sent: remove wire.first_download"
        )


def _labels_are_distinct(data: Section) -> Iterator[str]:
    labels = getattr(data, "labels", [])
    if repeated := [label for label in labels if labels.count(label) > 1]:
        yield f"data.labels contains '{repeated[0]}' more than once: remove the duplicates"


def _template_uses(data: Section) -> Iterator[str]:
    if is_text(data) and data.kind == "instruct" and data.template not in ("alpaca", "chat"):
        for key in ("prompt", "context"):
            if _is_set(data, key):
                yield f"data.{key} is set, but data.template is a format string, which names its columns: remove it"


def _conversations_are_read(data: Section) -> Iterator[str]:
    if is_text(data) and data.kind == "instruct" and data.messages is not None:
        for key in ("prompt", "context", "response"):
            if _is_set(data, key):
                yield f"data.{key} is set, but data.messages names a column of conversations: remove one of them"
        if data.template not in ("alpaca", "chat"):
            yield "data.template is a format string, but a chat template writes the conversations: remove it"


def _is_set(section: Section, key: str) -> bool:
    return bool(getattr(section, key) != type(section).model_fields[key].default)


def _texts_are_generated(data: Section, eval: Section) -> Iterator[str]:
    if eval.generations and (not is_text(data) or data.kind == "classify"):
        yield (
            f"eval.generations is {eval.generations}, but only models for instructions and plain texts generate: "
            "remove it, or set data.source = 'text' and data.kind = 'instruct' or 'plain'"
        )
    if not eval.generations and _is_set(eval, "max_new_tokens"):
        yield f"eval.max_new_tokens is {eval.max_new_tokens}, but no text is generated: set eval.generations too"


def _texts_are_not_images(data: Section, client: Section) -> Iterator[str]:
    if not is_text(data) and client.bucket:
        yield f"client.bucket sorts texts by length, but data.source = '{data.source}' has no texts: remove it"
    if is_text(data) and (client.crop or client.flip):
        yield "client.crop and client.flip augment images, but data.source = 'text' has no images: remove them"


def _shares_add_up(lowrank: Section) -> Iterator[str]:
    total = sum(lowrank.capacities.values())
    if total > 1:
        yield f"the shares in lowrank.capacities add up to {total:g}, which is more than 1: lower some of them"
    if too_large := [rank for rank in lowrank.capacities if int(rank) > lowrank.rank]:
        yield f"lowrank.capacities has the rank {too_large[0]}, but lowrank.rank is {lowrank.rank}: lower it"


def _scaffold_has_one_rank(method: Section, lowrank: Section) -> Iterator[str]:
    if method.scaffold and lowrank.capacities:
        yield "method.scaffold = true requires one rank on all clients: remove lowrank.capacities or method.scaffold"


def _no_password(track: Section) -> Iterator[str]:
    if "@" in urlsplit(getattr(track, "uri", None) or "").netloc:
        yield (
            "track.uri contains a user or a password, which would be written to the run folder: set the environment "
            "variables MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead"
        )


CHECKS: tuple[Callable[..., Iterator[Any]], ...] = (
    _cohort_fits,
    _data_has_columns,
    _texts_are_read,
    _weights_are_loaded,
    _labels_are_distinct,
    _template_uses,
    _conversations_are_read,
    _texts_are_not_images,
    _texts_are_generated,
    _shares_add_up,
    _scaffold_has_one_rank,
    _no_password,
)
