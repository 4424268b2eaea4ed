"""The pages on the command line and the configuration, and what a shell completes, are generated from the code.

``UPDATE_DOCS=1 pytest tests/test_docs.py`` writes them.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import tomli_w
from pydantic.fields import FieldInfo
from typer.testing import CliRunner

from fedloru.cli import app
from fedloru.config import SECTIONS, Forms, Top, parse
from fedloru.config.fields import Section, expected
from fedloru.settings import In, When, one_of
from fedloru.settings.table import SYNTAX

DOCS = Path(__file__).parent.parent / "docs"

CLI = """# The command line

`fedloru` is the same as `python -m fedloru`. A CONFIG is a TOML file or the name of a preset; its settings can be
changed with `-s key=value` (see [the configuration](configuration.md)).

The exit code is 0 on success; 2 on an error, with a message on stderr that says what is wrong and how to fix it; and
130 if stopped by Ctrl-C, after saving a checkpoint and printing the command that resumes the run. It is 1 for an error
that fedloru did not expect; `-v` shows its traceback.

- **For programs.** `--json` prints one JSON object instead of tables ([its keys](json.md)). Notes, progress and errors
  go to stderr. Without a terminal, tables are as wide as their contents, and have no control codes; `NO_COLOR` removes
  colors from a terminal too.
- **Completion.** `fedloru --install-completion` teaches your shell to complete commands, options, presets, run folders,
  and the settings of `-s` with their values.
"""

CONFIGURATION = """# The configuration

A configuration is a TOML file, or a preset (listed by `fedloru presets`). All settings have defaults, except those
marked *required*. `fedloru config my.toml` prints the complete configuration. A run saves it as `config.toml` in its
folder, and `fedloru run` accepts that file to repeat the run.

```toml
rounds = 30

[data]
source = "digits"

[partition]
scheme = "dirichlet"
clients = 10
alpha = 0.3

[model]
name = "mlp"

[lowrank]
rank = 4
targets = ["fc1"]

[method]
name = "fedloru"
tau = 10

[cohort]
size = 5
```

On the command line, `-s key=value` overrides a setting: `-s method.tau=5`, `-s "lowrank.targets=['conv2', 'fc1']"`,
`-s method.tau=inf`. The value is read as TOML, or as a plain string if it is not valid TOML. If an override selects
another method, model, scheme, source, rule or optimizer, settings in the file that only the old one has are dropped.
For example, `-s method.name=fedavg` also drops `method.tau`, so it is enough to compare a run with FedAvg.

The whole configuration is checked before the run starts, and all problems are reported at once. Unknown keys are
errors, and so are settings without effect, such as `method.tau` for FedAvg. Paths are relative to the working
directory. Globs match the names of layers as `fnmatch` does; `*` also matches dots.

Some settings name something that the package provides, such as a model or a method. Where
`python:package.module:function` is listed, your own function can be used instead; the parameters of a model or method
are its settings. The module must be on Python's path or in the working directory.

In some sections, one key selects what the other keys are. In their tables, the column *for* lists the choices that
have a setting; it is empty for settings of all choices.
"""


def cli_page() -> str:
    commands = ["", *(command.name or command.callback.__name__ for command in app.registered_commands)]  # type: ignore[union-attr]
    parts = [CLI]
    for command in commands:
        shown = CliRunner().invoke(app, [*command.split(), "--help"], prog_name="fedloru", env={"COLUMNS": "80"})
        parts.append(f"## fedloru {command}".rstrip() + f"\n\n```text\n{shown.stdout.strip()}\n```\n")
    return "\n".join(parts)


def configuration_page() -> str:
    parts = [CONFIGURATION, f"## Top level\n\n{summary(Top)}\n", table(Forms("", {"": Top}))]
    for name, forms in SECTIONS.items():
        parts += [f"## `[{name}]`\n", *description(forms), table(forms)]
    return "\n".join(parts)


def description(forms: Forms) -> Iterator[str]:
    """Yield the summary of a section, or the list of its forms; forms with the same summary share an item."""
    if not forms.key:
        yield f"{summary(forms.by_name[''])}\n"
        return
    names: dict[str, list[str]] = {}
    for name, form in forms.all.items():
        names.setdefault(summary(form), []).append(shown(forms, name))
    if forms.reference:
        names["Your own function."] = [SYNTAX.removeprefix("or ")]
    yield f"`{forms.key}` is one of:\n"
    yield "".join(f"- {code(same)}: {text}\n" for text, same in names.items())


def table(forms: Forms) -> str:
    rows: dict[tuple[str, ...], list[str]] = {}
    for name, form in forms.all.items():
        for key, field in form.model_fields.items():
            if key != forms.key and applies(forms, name, field):
                row = (key, expected(field) or "any value", default(field), meaning(forms, field))
                rows.setdefault(row, []).append(shown(forms, name))
    lines = [selector(forms)] if forms.key else []
    lines += [(*row, "" if len(names) == len(forms.all) else code(names)) for row, names in rows.items()]
    head = ("key", "expected", "default", "meaning", "for")[: 5 if forms.key else 4]
    body = "".join(f"| `{key}` | {' | '.join(rest[: len(head) - 1])} |\n" for key, *rest in lines)
    return f"| {' | '.join(head)} |\n|{'---|' * len(head)}\n{body}"


def selector(forms: Forms) -> tuple[str, ...]:
    """Return the row of the key that selects a form."""
    field = forms.by_name[forms.default].model_fields[forms.key]
    names = one_of(shown(forms, name) for name in forms.all)
    choices = f"{names}, {SYNTAX}" if forms.reference else names
    return forms.key, choices, f"`{toml(forms.default)}`", meaning(forms, field), ""


def applies(forms: Forms, name: str, field: FieldInfo) -> bool:
    """Return whether a setting has an effect in the form ``name``."""
    when = condition(field)
    return when is None or when.key != forms.key or name in when.values


def condition(field: FieldInfo) -> When | None:
    return next((item for item in field.metadata if isinstance(item, When)), None)


def code(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def shown(forms: Forms, name: str) -> str:
    return f"{name}…" if name in forms.prefixes else name


def default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    return "–" if field.default is None else f"`{toml(field.default)}`"


def toml(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(toml(item) for item in value)}]"
    return "{}" if value == {} else tomli_w.dumps({"x": value}).removeprefix("x = ").strip()


def meaning(forms: Forms, field: FieldInfo) -> str:
    """Return the help of a setting as sentences, with the condition under which it has an effect."""
    text, when = sentence(field.description or ""), condition(field)
    if when is None or when.key == forms.key:
        return text
    return f"{text} Only for {when.key} = {one_of(when.values)}."


def summary(form: type[Section]) -> str:
    return sentence((form.__doc__ or "").removeprefix("Return "))


def sentence(text: str) -> str:
    """Return a phrase in one line of Markdown, with a capital letter and a period."""
    line = " ".join(text.replace("``", "`").replace("|", "\\|").split())
    first = line.partition(" ")[0]
    line = line[:1].upper() + line[1:] if first.islower() else line
    return f"{line}." if line and not line.endswith((".", "!", "?")) else line


def completions() -> str:
    """Return the keys of all settings with the values that they may have, as JSON."""
    found: dict[str, list[str]] = {}
    for section, forms in {"": Forms("", {"": Top}), **SECTIONS}.items():
        for name, form in forms.all.items():
            for key, field in form.model_fields.items():
                path = f"{section}.{key}".strip(".")
                known = [name] * (name not in forms.prefixes) if key == forms.key else values(field)
                found[path] = list(dict.fromkeys([*found.get(path, []), *known]))
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def values(field: FieldInfo) -> list[str]:
    """Return the values of a setting that has a list of them."""
    for kind in (field.annotation, *get_args(field.annotation)):
        if kind is bool:
            return ["true", "false"]
        if get_origin(kind) is Literal:
            return [str(value) for value in get_args(kind)]
    return [str(name) for item in field.metadata if isinstance(item, In) for name in item.table]


PAGES = [
    (DOCS / "cli.md", cli_page),
    (DOCS / "configuration.md", configuration_page),
    (DOCS.parent / "fedloru" / "cli" / "settings.json", completions),
]


@pytest.mark.parametrize(("path", "make"), PAGES, ids=lambda value: getattr(value, "name", ""))
def test_a_page_is_up_to_date(path: Path, make: Any) -> None:
    if os.environ.get("UPDATE_DOCS"):
        path.write_text(make(), encoding="utf-8")
    assert path.read_text(encoding="utf-8") == make(), (
        f"{path.name} is out of date: run UPDATE_DOCS=1 pytest {__file__}"
    )


def test_every_setting_is_on_the_page() -> None:
    page = configuration_page()
    for forms in SECTIONS.values():
        for form in forms.all.values():
            assert all(f"| `{key}` |" in page for key in form.model_fields)


def test_the_example_on_the_page_is_a_configuration() -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", configuration_page(), re.DOTALL)
    assert parse(tomllib.loads(example)).method.name == "fedloru"
