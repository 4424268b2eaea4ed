"""A commented configuration, from answers to five questions."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import tomli_w

from fedloru import config as configs
from fedloru.cli.app import COMMAND_LINE
from fedloru.cli.looks import BUILT_IN, IMAGES, TABLE, TEXT, Found, look
from fedloru.config import SECTIONS, Top
from fedloru.config.fields import Section
from fedloru.data import files, sites
from fedloru.data.values import keys
from fedloru.errors import ConfigError, quoted
from fedloru.methods import METHODS
from fedloru.reading import parse_toml
from fedloru.settings import one_of

KINDS = (BUILT_IN, IMAGES, TABLE, TEXT)
DATA_SETS = {"digits": "mlp", "mnist5k": "cnn"}
"""The built-in data sets, each with a model for it."""
PER_FILE = sites.FILE
SMALL, LARGE = "hf:sentence-transformers/all-MiniLM-L6-v2", "hf:HuggingFaceTB/SmolLM2-135M"
"""Language models for texts with classes, and for others."""
CLIENTS, COHORT = 10, 10
SUGGESTED = {
    "lowrank": ("rank",),
    "client": ("epochs", "batch_size"),
    "wire": ("codec",),
    "eval": ("every",),
    "track": ("tool",),
}
"""Further settings that are often changed: they are written as comments with their defaults."""
WIDTH = 100


class Answers(NamedTuple):
    """What the user wants: the data, the model, the clients (a number, or the column that identifies them), the method.

    ``number`` is that of the clients.
    """

    found: Found
    model: str
    clients: int | str
    number: int
    method: str


def unknown_kind(kind: str) -> str:
    """Return that ``kind`` is no kind of data, and what to use if it is a path."""
    advice = f"; name a file or folder with --path {kind}" if Path(kind).exists() else ""
    return f"the data is {quoted(kind)}, expected {one_of(KINDS)}{advice}"


def data(kind: str, place: str | None) -> Found:
    """Return the data of ``kind`` at ``place``, a path or the name of a built-in data set.

    Raises:
        ConfigError: there is nothing at ``place``, or it holds something else.
    """
    if kind not in KINDS:
        raise ConfigError([unknown_kind(kind)], COMMAND_LINE)
    if kind == BUILT_IN:
        if place not in DATA_SETS:
            raise ConfigError([f"there is no built-in data set {quoted(place)}: {one_of(DATA_SETS)}"], COMMAND_LINE)
        return Found(BUILT_IN, {"source": place})
    if not place or not Path(place).exists():
        raise ConfigError([f"there is no file or folder {place or 'named'}: name the one with the data"], COMMAND_LINE)
    found = look(Path(place), kind)
    if found is None or found.kind != kind:
        holds = "nothing that fedloru reads" if found is None else f"data of the kind {found.kind}"
        raise ConfigError([f"{place} holds {holds}, and not {kind}"], COMMAND_LINE)
    return found


def model_for(found: Found) -> str:
    """Return the model to propose."""
    if found.kind == BUILT_IN:
        return DATA_SETS[found.data["source"]]
    if found.kind == TEXT:
        return SMALL if found.data["kind"] == "classify" else LARGE
    return "cnn" if found.kind == IMAGES else "mlp"


def model(name: str, found: Found) -> str:
    """Return the name of a model; that of a language model may lack its prefix.

    Raises:
        ConfigError: there is no such model.
    """
    prefixed = f"hf:{name}" if found.kind == TEXT and not name.startswith(("hf:", "python:")) else name
    texts = {"data": {"source": "text", "path": "x"}} if prefixed.startswith("hf:") else {}
    configs.parse({"model": {"name": prefixed}, **texts})
    return prefixed


def clients(answer: str, found: Found) -> tuple[int | str, int]:
    """Return the clients, a number or the column that identifies them, and their number.

    Raises:
        ConfigError: it is neither a number, nor "file" for one client per file, nor a column.
        DataError: values of the column cannot identify clients.
    """
    if answer.isdecimal() and int(answer):
        return int(answer), int(answer)
    if answer == PER_FILE and found.sites > 1:
        return PER_FILE, found.sites
    if found.kind in (TABLE, TEXT) and (count := _values(answer, found)):
        return answer, count
    column = ", or the column that identifies a client" * (found.kind in (TABLE, TEXT))
    raise ConfigError(
        [f"the clients are {quoted(answer)}, expected a number, 'file' for one client per file{column}"], COMMAND_LINE
    )


def method(name: str) -> str:
    """Return the name of a method.

    Raises:
        ConfigError: there is none.
    """
    METHODS.find(name)
    return name


def _values(column: str, found: Found) -> int:
    """Return the number of values of a column in all files; 0 if they lack it.

    Raises:
        DataError: values of the column cannot identify clients.
    """
    tables = {path: files.read(path) for path in sites.find(found.data["path"]).files.values()}
    if not all(column in table.column_names for table in tables.values()):
        return 0
    return len({key for path, table in tables.items() for key in keys(table[column], column, str(path))})


def text(answers: Answers, name: str) -> str:
    """Return the configuration as commented TOML, which is checked; ``name`` is that of its file.

    Raises:
        ConfigError: the answers do not fit together.
    """
    written = "".join(_lines(_table(answers), name))
    configs.parse(parse_toml(written), name)
    return written


def _table(answers: Answers) -> dict[str, Any]:
    natural = isinstance(answers.clients, str)
    who = {"scheme": "natural", "key": answers.clients} if natural else {"scheme": "iid", "clients": answers.clients}
    model: dict[str, Any] = {"name": answers.model}
    if answers.found.kind == TABLE and answers.model == "mlp":
        model["hidden"] = [64, 64]
    metrics = {"eval": {"metrics": list(answers.found.metrics)}} if answers.found.metrics else {}
    return {
        "rounds": 30,
        "data": answers.found.data,
        "partition": who,
        "model": model,
        "method": {"name": answers.method},
        "cohort": {"size": min(COHORT, answers.number)},
        **metrics,
    }


def _lines(table: dict[str, Any], name: str) -> Iterator[str]:
    yield f"# Written by `fedloru init`. `fedloru audit {name}` shows the data, and `fedloru run {name}` trains.\n"
    yield f"# `fedloru config {name}` prints all settings with their defaults; docs/configuration.md explains them.\n\n"
    yield from _setting(Top, "rounds", table["rounds"])
    for section, forms in SECTIONS.items():
        chosen = table.get(section, {})
        form = forms.find(forms.named(chosen))
        assert form is not None
        if not chosen and section not in SUGGESTED:
            continue
        yield f"\n[{section}]\n"
        for key, value in chosen.items():
            yield from _setting(form, key, value)
        for key in SUGGESTED.get(section, ()):
            if key not in chosen:
                yield from _setting(form, key, form.model_fields[key].default, "# ")


def _setting(form: type[Section], key: str, value: Any, before: str = "") -> Iterator[str]:
    help = " ".join((form.model_fields[key].description or "").split())
    sentence = f"{help[:1].upper()}{help[1:]}".rstrip(".")
    yield textwrap.fill(f"{sentence}.", WIDTH, initial_indent="# ", subsequent_indent="# ") + "\n"
    yield f"{before}{_toml(key, value)}\n"


def _toml(key: str, value: Any) -> str:
    if isinstance(value, list):
        return f"{key} = [{', '.join(_toml('x', item).removeprefix('x = ') for item in value)}]"
    return tomli_w.dumps({key: value}).strip()
