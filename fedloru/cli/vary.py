"""The runs of a configuration for all combinations of varied values and seeds: their folders, checks and training."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import compress, product
from pathlib import Path
from typing import Any, NamedTuple

from fedloru import api, config
from fedloru.cli.app import COMMAND_LINE, say
from fedloru.cli.training import follow
from fedloru.comparison.compared import NOTHING
from fedloru.config import Config
from fedloru.errors import ConfigError, FedloruError, RunFolderError, TrainingError, quoted
from fedloru.run.folder import RunFolder, is_free
from fedloru.run.places import is_finished

OPENING, CLOSING, QUOTES = "[{(", "]})", "\"'"


Option = tuple[str, str]
"""A varied setting: its key, and one of its values."""


class Combination(NamedTuple):
    """One value of each varied setting, and all changes of the configuration."""

    values: tuple[Option, ...]
    changes: list[str]


class Planned(NamedTuple):
    """A run to compare; its folder may already exist."""

    folder: Path
    config: Config


def planned(source: str, overrides: Sequence[str], vary: Sequence[str], seeds: int, out: Path | None) -> list[Planned]:
    """Return all runs, checked against existing folders; nothing is trained or written.

    A setting is not applied to a method, or another form, that does not have it, if others do: then one run stands for
    all its values.

    Raises:
        ConfigError: a configuration has problems, ``vary`` cannot be parsed, or there are fewer than two runs.
        RunFolderError: a folder exists and has another configuration.
    """
    parent = out or Path("runs", f"compare-{Path(source).stem}")
    runs = []
    for values, changes in _combinations(source, overrides, [_options(entry) for entry in vary]):
        for seed in range(seeds):
            folder = parent / "_".join([*(_slug(*value) for value in values), f"seed-{seed}"])
            fixed = [f"seed={seed}", f"output.dir={json.dumps(str(folder))}"]
            runs.append(Planned(folder, config.load(source, [*changes, *fixed])))
    if len(runs) < 2:
        raise ConfigError([NOTHING], COMMAND_LINE)
    for run in runs:
        _check_existing(run)
    return runs


def _combinations(source: str, overrides: Sequence[str], options: Sequence[Sequence[Option]]) -> list[Combination]:
    """Return the distinct combinations of values, each without the settings that its method or another form lacks.

    A setting that no combination has remains in all of them, so that loading the configuration reports it.
    """
    every = [Combination(values, [*overrides, *map("=".join, values)]) for values in product(*options)]
    known = [[config.has(key, source, each.changes) for key in map(_key, each.changes)] for each in every]
    used = {_key(change) for each, has in zip(every, known, strict=True) for change in compress(each.changes, has)}
    kept: dict[tuple[Option, ...], Combination] = {}
    for each, has in zip(every, known, strict=True):
        changes = [change for change, known in zip(each.changes, has, strict=True) if known or _key(change) not in used]
        values = tuple(value for value in each.values if "=".join(value) in changes)
        kept.setdefault(values, Combination(values, changes))
    return list(kept.values())


def _key(change: str) -> str:
    return change.partition("=")[0].strip()


def make(runs: Sequence[Planned], quiet: bool, on_stderr: bool = False) -> None:
    """Train the runs that are missing, and resume those that were interrupted; display rounds on stdout or on stderr.

    Raises:
        FedloruError: a run cannot be started or fails; the results of earlier runs are kept.
    """
    unfinished = [run for run in runs if not is_finished(run.folder)]
    for number, run in enumerate(unfinished, 1):
        started = (run.folder / "config.toml").is_file()
        if not quiet:
            say(f"Run {number} of {len(unfinished)}: {'resuming ' if started else ''}{run.folder}")
        try:
            follow(api.resume(run.folder) if started else api.start(run.config), quiet, on_stderr)
        except (FedloruError, OSError, KeyboardInterrupt) as error:
            next_step = "repeat the command to continue"
            if isinstance(error, TrainingError):
                next_step = "the same settings would diverge again, so change them or remove this run"
            error.add_note(f"The run was {run.folder}. Results so far are kept: {next_step}.")
            raise


def split(values: str) -> list[str]:
    """Split ``values`` at the commas that are outside of brackets and strings."""
    parts, depth, quote = [""], 0, ""
    for letter in values:
        if quote or letter in QUOTES:
            quote = "" if letter == quote else quote or letter
        depth += 0 if quote else (letter in OPENING) - (letter in CLOSING)
        if letter == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def _options(vary: str) -> list[Option]:
    key, equals, values = vary.partition("=")
    options = [(key.strip(), value) for value in split(values)]
    if not (equals and key.strip() and all(value for _, value in options)):
        raise ConfigError([f"{quoted(vary)} is not of the form key=value,value, such as method.tau=5,10"], COMMAND_LINE)
    if key.strip() in ("seed", "output.dir"):
        raise ConfigError([f"{key.strip()} cannot be varied: --seeds and --out set it"], COMMAND_LINE)
    if len({_slug(*option) for option in options}) < len(options):
        raise ConfigError([f"{quoted(vary)} names a value twice: remove one of them"], COMMAND_LINE)
    return options


def _slug(key: str, value: str) -> str:
    """Return a setting as part of a folder name."""
    name, plain = key.rpartition(".")[2], re.sub(r"[^\w.+-]+", "-", value).strip("-.")
    return plain if name == "name" else f"{name}-{plain}"


def _check_existing(run: Planned) -> None:
    """Check that the folder of a run is free, or has the same configuration."""
    if is_free(run.folder):
        return
    existing, wanted = _flat(_with_defaults(RunFolder.open(run.folder).config)), _flat(config.dump(run.config))
    compared = (existing.keys() | wanted.keys()) - (config.OPEN - wanted.keys())
    changed = [key for key in sorted(compared) if existing.get(key) != wanted.get(key)]
    if changed:
        differences = "; ".join(
            f"{key} is {quoted(existing.get(key))} there, {quoted(wanted.get(key))} here" for key in changed[:5]
        )
        raise RunFolderError(
            f"{run.folder} has another configuration: {differences}. Choose another folder with --out, or remove this "
            "one"
        )


def _with_defaults(table: dict[str, Any]) -> dict[str, Any]:
    """Return a stored configuration with the settings that later versions added; unchanged if it no longer parses."""
    try:
        return config.dump(config.stored(table, "config.toml"))
    except ConfigError:
        return table


def _flat(table: dict[str, Any]) -> dict[str, Any]:
    """Return all settings but those of [output] and [track] by their keys, such as "client.lr", as JSON holds them."""
    sections = {name: value if isinstance(value, dict) else {"": value} for name, value in table.items()}
    return {
        f"{name}.{key}".strip("."): value
        for name, section in sections.items()
        if name not in ("output", "track")
        for key, value in json.loads(json.dumps(section)).items()
    }
