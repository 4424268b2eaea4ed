"""The sections of a configuration and their forms, derived from the declarations of the objects that they set up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, NamedTuple

from fedloru.config import texts
from fedloru.config.derive import Forms, forms_of, one_form, section
from fedloru.config.fields import Capacities, Section
from fedloru.config.methods import method_forms, wrapper_forms
from fedloru.data import SCHEMES, SOURCES, load
from fedloru.models import FROM_DATA, MODELS
from fedloru.net import LOSSES, attach
from fedloru.recipe import Recipe
from fedloru.run.federation import Federation
from fedloru.run.plan import keyed_settings
from fedloru.settings import In, Setting, settings_of
from fedloru.settings.types import Count, Text, Whole
from fedloru.track import TRACKERS

CAPACITIES = Setting(
    "capacities",
    Capacities,
    {},
    "ranks that some clients cannot exceed, each with its share of the clients; all others have the full rank",
)
GENERATIONS = Setting(
    "generations",
    Whole,
    0,
    "number of test prompts that a language model continues at every evaluation; the texts go to generations.jsonl",
)
NEW_TOKENS = Setting("max_new_tokens", Count, 64, "the maximum number of tokens generated for each prompt")
FOLDER = Setting(
    "dir",
    Text,
    "runs/run",
    "the run folder; by default runs/ and the name of the configuration. If it exists, a new run adds a number to it, "
    "as in runs/demo-2, unless it is named on the command line",
)


class Config(NamedTuple):
    """A complete, valid configuration; ``parse`` creates it."""

    seed: int
    rounds: int
    data: Section
    partition: Section
    model: Section
    lowrank: Section
    method: Section
    server: Section
    aggregation: Section
    client: Section
    cohort: Section
    wire: Section
    engine: Section
    eval: Section
    output: Section
    track: Section
    federation: Section


def _of_run(name: str) -> Iterator[Setting]:
    """Yield the settings of a run that belong to the section ``name``; "" is the top level."""
    for key, setting in keyed_settings().values():
        place, _, own = key.rpartition(".")
        if place == name:
            yield setting._replace(name=own)


def _seed(draws: str) -> Setting:
    return Setting("seed", Whole | None, None, f"the seed of {draws}; by default the run's seed")


def _data() -> Forms:
    meaning = "the data source"
    base = section("Data", "", settings_of(load, skip=frozenset({"source"})).values())
    of_texts = section("Data", "", settings_of(load, skip=frozenset({"source", "task"})).values())
    others = {texts.SOURCE: texts.text_form(of_texts, meaning)}
    return forms_of(SOURCES, "source", base, default="mnist5k", meaning=meaning, others=others)


def _partition() -> Forms:
    base = section("Partition", "", [_seed("the partition")])
    return forms_of(
        SCHEMES,
        "scheme",
        base,
        default="iid",
        meaning="how examples are assigned to clients",
        skip=["dataset"],
        defaults={"clients": 20},
    )


def _model() -> Forms:
    seed, meaning = _seed("the initial weights"), "the model"
    base = section("Model", "", [seed, LOSS])
    prefixes = {texts.PREFIX: texts.model_form(section("Model", "", [seed]), meaning)}
    return forms_of(MODELS, "name", base, default="cnn", meaning=meaning, skip=FROM_DATA, prefixes=prefixes)


LOSS = Setting(
    "loss",
    Annotated[str | None, In(LOSSES)],
    None,
    "the loss; a function takes the outputs and the batch, and returns one value per example; by default cross_entropy "
    "if labels are classes, and mse for a regression",
)


def _track() -> Forms:
    base, meaning = section("Track", "", []), "the tracker of experiments that follows the run"
    return forms_of(TRACKERS, "tool", base, default="none", meaning=meaning, skip=["run"])


Top = section("Top", "Settings of the whole run.", _of_run(""))

SECTIONS: dict[str, Forms] = {
    "data": _data(),
    "partition": _partition(),
    "model": _model(),
    "lowrank": one_form(
        "Which weights get low-rank factors, and what else is trained; for methods that train factors.",
        [*settings_of(attach, skip=frozenset({"model", "losses", "inputs"})).values(), CAPACITIES],
    ),
    "method": method_forms(),
    **wrapper_forms(),
    "client": one_form("Local training on the clients.", settings_of(Recipe).values()),
    "cohort": one_form("The clients that are sampled for each round.", _of_run("cohort")),
    "wire": one_form("How messages are encoded, and what they contain.", _of_run("wire")),
    "engine": one_form(
        "How the clients of a round are trained; the choice does not change the results.", _of_run("engine")
    ),
    "eval": one_form("Evaluation of the shared model.", [*_of_run("eval"), GENERATIONS, NEW_TOKENS]),
    "output": one_form("What the run writes.", [FOLDER, *_of_run("output")]),
    "track": _track(),
    "federation": one_form(
        "How a federation of real clients runs, with `fedloru serve`; simulations ignore it.",
        settings_of(Federation).values(),
    ),
}
"""The tables of a configuration, each with its forms."""
