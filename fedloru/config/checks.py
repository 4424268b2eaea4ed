"""Settings that are right one by one, and cannot be together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from inspect import signature
from typing import Any

from fedloru.config import forms
from fedloru.config.fields import Section, either
from fedloru.config.schema import Client, Cohort, LowRank

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


def _key_is_kept(data: forms.Data, partition: forms.Partition) -> Iterator[str]:
    if not isinstance(partition, forms.NaturalPartition):
        return
    if isinstance(data, forms.EmbeddedData | forms.FolderData):
        yield f"partition.scheme is 'natural', but data.source = '{data.source}' has no columns to part it by"
    elif partition.key not in data.columns:
        yield (
            f"partition.key is '{partition.key}', but data.columns is {data.columns}: "
            f"set data.columns = ['{partition.key}']"
        )


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
    _key_is_kept,
    _shares_add_up,
    _increments_are_exact,
    _server_sees_merges,
    _variates_are_gradients,
    _variates_fit,
    _client_uses,
    _server_uses,
)
