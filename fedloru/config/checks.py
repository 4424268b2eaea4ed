"""Settings that are right one by one, and cannot be together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from inspect import signature
from typing import Any

from fedloru.config import forms
from fedloru.config.fields import Section, either
from fedloru.config.schema import Client, Cohort, Eval, LowRank, Wire

USED_BY: dict[str, dict[str, tuple[str, tuple[str, ...]]]] = {
    "client": {
        "momentum": ("optimizer", ("sgd",)),
        "betas": ("optimizer", ("adam", "adamw")),
        "eps": ("optimizer", ("adam", "adamw")),
        "decay": ("schedule", ("step",)),
        "decay_every": ("schedule", ("step",)),
    },
    "server": {
        "beta2": ("rule", ("adam", "yogi")),
        "eps": ("rule", ("adagrad", "adam", "yogi")),
    },
}
"""The settings that only count where another of their section has one of these values."""

USED_BY_KIND: dict[str, frozenset[str]] = {
    "instruct": frozenset({"prompt", "context", "response", "template"}),
    "classify": frozenset({"text", "label", "labels"}),
    "plain": frozenset({"text"}),
}
"""The settings of data that only count for these kinds of text."""


def conflicts(valid: Mapping[str, Section]) -> Iterator[str]:
    """Yield what cannot be together among the sections that are ``valid`` by themselves."""
    for check in CHECKS:
        needed = signature(check).parameters
        if needed.keys() <= valid.keys():
            yield from check(**{name: valid[name] for name in needed})


def _cohort_fits(cohort: Cohort, partition: forms.Partition) -> Iterator[str]:
    if isinstance(partition, forms.Dealt) and cohort.size > partition.clients:
        yield (
            f"cohort.size is {cohort.size}, but partition.clients is {partition.clients}: lower the one, or raise the "
            "other"
        )


def _data_has_columns(data: forms.Data, partition: forms.Partition) -> Iterator[str]:
    natural = isinstance(partition, forms.NaturalPartition)
    if natural and isinstance(data, forms.EmbeddedData | forms.FolderData):
        yield f"partition.scheme is 'natural', but data.source = '{data.source}' has no columns to part it by"


def _texts_are_read(data: forms.Data, model: forms.Model) -> Iterator[str]:
    if isinstance(data, forms.TextData) and not isinstance(model, forms.LanguageModel):
        yield f"data.source is 'text', but model.name = '{model.name}' reads no texts: set model.name = 'hf:FOLDER'"
    if isinstance(model, forms.LanguageModel) and not isinstance(data, forms.TextData):
        yield f"model.name is '{model.name}', but data.source = '{data.source}' has no texts: set data.source = 'text'"


def _weights_are_loaded(model: forms.Model, wire: Wire) -> Iterator[str]:
    if isinstance(model, forms.LanguageModel) and wire.first_download:
        yield (
            f"wire.first_download is true, but model.name = '{model.name}' is loaded by every client itself, and its "
            "frozen weights never travel: leave it out"
        )


def _kind_uses(data: forms.Data) -> Iterator[str]:
    if not isinstance(data, forms.TextData):
        return
    for key in sorted(frozenset().union(*USED_BY_KIND.values()) - USED_BY_KIND[data.kind]):
        if _is_set(data, key):
            kinds = either(kind for kind, keys in USED_BY_KIND.items() if key in keys)
            yield f"data.{key} is set, but data.kind = '{data.kind}' does not use it: leave it out, or take {kinds}"
    if data.kind == "classify" and data.pack:
        yield "data.pack is true, but data.kind = 'classify' has a class for every text: leave it out"
    if twice := [label for label in data.labels if data.labels.count(label) > 1]:
        yield f"data.labels names '{twice[0]}' more than once: leave the others out"


def _template_uses(data: forms.Data) -> Iterator[str]:
    if isinstance(data, forms.TextData) and data.kind == "instruct" and data.template not in ("alpaca", "chat"):
        for key in ("prompt", "context"):
            if _is_set(data, key):
                yield f"data.{key} is set, but data.template is your own, which names its columns: leave it out"


def _is_set(section: Section, key: str) -> bool:
    return bool(getattr(section, key) != type(section).model_fields[key].default)


def _models_write(data: forms.Data, eval: Eval) -> Iterator[str]:
    if eval.generations and (not isinstance(data, forms.TextData) or data.kind == "classify"):
        yield (
            f"eval.generations is {eval.generations}, but only models of instructions and plain texts write: "
            "leave it out, or set data.source = 'text' and data.kind = 'instruct' or 'plain'"
        )
    if not eval.generations and _is_set(eval, "max_new_tokens"):
        yield f"eval.max_new_tokens is {eval.max_new_tokens}, but nothing is written: set eval.generations too"


def _texts_are_no_images(data: forms.Data, client: Client) -> Iterator[str]:
    if not isinstance(data, forms.TextData) and client.bucket:
        yield f"client.bucket sorts texts by length, but data.source = '{data.source}' has none: leave it out"
    if isinstance(data, forms.TextData) and (client.crop or client.flip):
        yield "client.crop and client.flip change images, but data.source = 'text' has none: leave them out"


def _shares_add_up(lowrank: LowRank) -> Iterator[str]:
    total, given = sum(lowrank.capacities.values()), lowrank.capacities
    if total > 1:
        yield f"the shares of lowrank.capacities add up to {total:g}, but there is one whole: lower some"
    if too_large := [rank for rank in given if int(rank) > lowrank.rank]:
        yield f"lowrank.capacities names the rank {too_large[0]}, but lowrank.rank is {lowrank.rank}: lower it"


def _increments_are_exact(method: forms.Method) -> Iterator[str]:
    if isinstance(method, forms.Accumulating) and method.accumulate_rank is not None and method.accumulate != "exact":
        yield (
            f"method.accumulate_rank is {method.accumulate_rank}, but method.accumulate is '{method.accumulate}': "
            "only an exact increment is truncated, so set method.accumulate = 'exact', or leave the rank out"
        )


def _server_sees_merges(method: forms.Method, server: forms.Server) -> Iterator[str]:
    if isinstance(method, forms.Accumulating) and method.accumulate == "exact" and server.rule != "none":
        yield (
            f"server.rule is '{server.rule}', but method.accumulate = 'exact' merges what clients sent and not the "
            "optimizer's result: set method.accumulate = 'factors', or server.rule = 'none'"
        )


def _variates_are_gradients(method: forms.Method, client: Client) -> Iterator[str]:
    if not method.scaffold:
        return
    for key, value, wanted in (
        ("optimizer", client.optimizer, "sgd"),
        ("momentum", client.momentum, 0.0),
        ("schedule", client.schedule, "constant"),
    ):
        if value != wanted:
            yield (
                f"client.{key} is {value!r}, but method.scaffold = true takes what clients change for the gradient at "
                f"the rate client.lr: set client.{key} = {wanted!r}, or leave method.scaffold out"
            )


def _variates_fit(method: forms.Method, lowrank: LowRank) -> Iterator[str]:
    if method.scaffold and lowrank.capacities:
        yield "method.scaffold = true needs clients of one rank: leave out lowrank.capacities, or method.scaffold"
    if method.scaffold and isinstance(method, forms.PFedLoRU):
        yield "method.scaffold = true cannot tell the steps of two phases apart: set method.name = 'fedloru'"


def _client_uses(client: Client) -> Iterator[str]:
    return _unused("client", client)


def _server_uses(server: forms.Server) -> Iterator[str]:
    return _unused("server", server)


def _unused(name: str, section: Section) -> Iterator[str]:
    for key, field in type(section).model_fields.items():
        other, values = USED_BY[name].get(key, ("", ()))
        value, chosen = getattr(section, key), getattr(section, other, "")
        if other and chosen not in values and value != field.default:
            yield (
                f"{name}.{key} is {value}, but {name}.{other} = '{chosen}' does not use it: "
                f"leave it out, or set {name}.{other} = {either(values)}"
            )


CHECKS: tuple[Callable[..., Iterator[Any]], ...] = (
    _cohort_fits,
    _data_has_columns,
    _texts_are_read,
    _weights_are_loaded,
    _kind_uses,
    _template_uses,
    _texts_are_no_images,
    _models_write,
    _shares_add_up,
    _increments_are_exact,
    _server_sees_merges,
    _variates_are_gradients,
    _variates_fit,
    _client_uses,
    _server_uses,
)
