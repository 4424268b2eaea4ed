"""The runs of one configuration under every combination of varied values and seeds: named, checked, and made."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from fedloru import api, config
from fedloru.cli.app import say
from fedloru.cli.train import follow
from fedloru.config import Config
from fedloru.errors import ConfigError, FedloruError, RunFolderError, TrainingError
from fedloru.run.folder import RunFolder, is_free

OPENING, CLOSING, QUOTES = "[{(", "]})", "\"'"


class Planned(NamedTuple):
    """A run to compare, which may be there already."""

    folder: Path
    config: Config


def planned(source: str, overrides: Sequence[str], vary: Sequence[str], seeds: int, out: Path | None) -> list[Planned]:
    """Return all runs, checked against the folders that exist; nothing is trained or written.

    Raises:
        ConfigError: a configuration has problems, or ``vary`` cannot be read.
        RunFolderError: a folder is there, and is of another configuration.
    """
    place = out or Path("runs", f"compare-{Path(source).stem}")
    runs = []
    for values in product(*map(_options, vary)):
        for seed in range(seeds):
            folder = place / "_".join([*(_slug(*value) for value in values), f"seed-{seed}"])
            changes = [f"{key}={value}" for key, value in values]
            where = [f"seed={seed}", f"output.dir={json.dumps(str(folder))}"]
            runs.append(Planned(folder, config.load(source, [*overrides, *changes, *where])))
    for run in runs:
        _check_there(run)
    return runs


def make(runs: Sequence[Planned], quiet: bool) -> None:
    """Train what is missing or was interrupted.

    Raises:
        FedloruError: a run cannot be made or fails; those before it are kept.
    """
    left = [run for run in runs if not api.finished(run.folder)]
    for number, run in enumerate(left, 1):
        begun = (run.folder / "config.toml").is_file()
        if not quiet:
            say(f"Run {number} of {len(left)}: {'resuming ' if begun else ''}{run.folder}")
        try:
            follow(api.resume(run.folder) if begun else api.start(run.config), quiet)
        except (FedloruError, OSError, KeyboardInterrupt) as error:
            way_on = "the same command goes on from there"
            if isinstance(error, TrainingError):
                way_on = "this run diverges again with the same settings, so change them or leave it out"
            error.add_note(f"This was {run.folder}. What is done is kept: {way_on}.")
            raise


def split(values: str) -> list[str]:
    """Split ``values`` at its commas, those in brackets and strings apart."""
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


def _options(vary: str) -> list[tuple[str, str]]:
    key, equals, values = vary.partition("=")
    options = [(key.strip(), value) for value in split(values)]
    if not (equals and key.strip() and all(value for _, value in options)):
        raise ConfigError([f"{vary!r} is not of the form key=value,value, such as method.tau=5,10"], "the command line")
    if key.strip() in ("seed", "output.dir"):
        raise ConfigError([f"{key.strip()} cannot be varied: --seeds and --out set it"], "the command line")
    if len({_slug(*option) for option in options}) < len(options):
        raise ConfigError([f"{vary!r} names a value twice: leave it out once"], "the command line")
    return options


def _slug(key: str, value: str) -> str:
    """Return a setting as a part of a folder's name."""
    name, plain = key.rpartition(".")[2], re.sub(r"[^\w.+-]+", "-", value).strip("-.")
    return plain if name == "name" else f"{name}-{plain}"


def _check_there(run: Planned) -> None:
    if is_free(run.folder):
        return
    there, wanted = _flat(RunFolder.open(run.folder).config), _flat(config.dump(run.config))
    compared = (there.keys() | wanted.keys()) - (config.OPEN - wanted.keys())
    changed = [key for key in sorted(compared) if there.get(key) != wanted.get(key)]
    if changed:
        told = "; ".join(f"{key} is {there.get(key)!r} there, {wanted.get(key)!r} here" for key in changed[:5])
        raise RunFolderError(
            f"{run.folder} is of another configuration: {told}. Name another folder with --out, or remove that one"
        )


def _flat(table: dict[str, Any]) -> dict[str, Any]:
    sections = {name: value if isinstance(value, dict) else {"": value} for name, value in table.items()}
    return {
        f"{name}.{key}".strip("."): value
        for name, section in sections.items()
        if name != "output"
        for key, value in json.loads(json.dumps(section)).items()
    }
