"""The pages on the command line and the configuration say what the code says.

``UPDATE_DOCS=1 pytest tests/test_docs.py`` writes them anew.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from pydantic.fields import FieldInfo
from typer.testing import CliRunner

from fedloru.cli import app
from fedloru.config import SECTIONS, Forms, Top, parse
from fedloru.config.fields import Section, either, expected
from fedloru.config.schema import PREFIXES

DOCS = Path(__file__).parent.parent / "docs"

CLI = """# The command line

`fedloru` and `python -m fedloru` are the same. A CONFIG is a TOML file or the name of a preset, and any of its settings
can be changed with `-s key=value` ([the configuration](configuration.md)).

Exit codes: 0 done; 2 refused, with one paragraph on stderr that says what was wrong and what to do; 130 stopped by
Ctrl-C, with a checkpoint and the command that goes on from it.
"""

CONFIGURATION = """# The configuration

A configuration is a TOML file, or a preset (`fedloru presets`). Whatever it leaves out has a default, and
`fedloru config my.toml` prints it complete; a run saves the same text as `config.toml` in its folder, and
`fedloru run` takes that file again.

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

On the command line, `-s key=value` changes a setting: `-s method.tau=5`, `-s "lowrank.targets=['conv2', 'fc1']"`,
`-s method.tau=inf`. The value is read as TOML, or as a plain string where it is none. Where an override chooses another
method, model, scheme, source or rule, what the file sets for the old one alone is left out: `-s method.name=fedavg` is
enough to compare a run with FedAvg.

Everything is checked before anything runs, and all problems are told at once. A key that nothing knows is an error, and
so is a setting without effect, such as `method.tau` for FedAvg. Paths are seen from the working directory. Globs match
names of layers as `fnmatch` does, and `*` also matches dots.

In the tables, *for* names the forms that take a key, where a section comes in several.
"""


def cli_page() -> str:
    commands = ["", *(command.name or command.callback.__name__ for command in app.registered_commands)]  # type: ignore[union-attr]
    parts = [CLI]
    for command in commands:
        shown = CliRunner().invoke(app, [*command.split(), "--help"], prog_name="fedloru", env={"COLUMNS": "80"})
        parts.append(f"## fedloru {command}".rstrip() + f"\n\n```text\n{shown.stdout.strip()}\n```\n")
    return "\n".join(parts)


def configuration_page() -> str:
    parts = [CONFIGURATION, f"## At the top\n\n{sentence(Top)}\n", table(Forms("", {"": Top}))]
    for name, forms in SECTIONS.items():
        parts += [f"## `[{name}]`\n", *described(forms), table(forms)]
    return "\n".join(parts)


def described(forms: Forms) -> Iterator[str]:
    by_form: dict[type[Section], list[str]] = {}
    for name, form in forms.by_name.items():
        by_form.setdefault(form, []).append(shown(name))
    if not forms.key:
        yield f"{sentence(next(iter(by_form)))}\n"
        return
    yield f"`{forms.key}` chooses the form:\n"
    yield "".join(
        f"- {', '.join(f'`{name}`' for name in names)}: {sentence(form)}\n" for form, names in by_form.items()
    )


def table(forms: Forms) -> str:
    rows: dict[tuple[str, ...], list[str]] = {}
    for name, form in forms.by_name.items():
        for key, field in form.model_fields.items():
            if key != forms.key:
                rows.setdefault((key, expected(field), default(field), meaning(field)), []).append(shown(name))
    first = [choice(forms)] if forms.key else []
    lines = [*first, *((*row, "" if len(names) == len(forms.by_name) else taken(names)) for row, names in rows.items())]
    head = ("key", "expected", "default", "meaning", "for")
    width = 5 if forms.key else 4
    body = "".join(f"| `{key}` | {' | '.join(rest[: width - 1])} |\n" for key, *rest in lines)
    return f"| {' | '.join(head[:width])} |\n|{'---|' * width}\n{body}"


def choice(forms: Forms) -> tuple[str, ...]:
    names = list(forms.by_name)
    field = forms.by_name[names[0]].model_fields[forms.key]
    return forms.key, either(shown(name) for name in names), f"`{toml(names[0])}`", meaning(field), ""


def taken(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def shown(name: str) -> str:
    return f"{name}…" if name in PREFIXES else name


def default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    return "–" if field.default is None else f"`{toml(field.default)}`"


def toml(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(toml(item) for item in value)}]"
    return "{}" if value == {} else tomli_w.dumps({"x": value}).removeprefix("x = ").strip()


def meaning(field: FieldInfo) -> str:
    assert field.description, "every setting says what it means"
    return " ".join(field.description.split()).replace("|", "\\|")


def sentence(form: type[Section]) -> str:
    return " ".join((form.__doc__ or "").split())


@pytest.mark.parametrize(("name", "make"), [("cli.md", cli_page), ("configuration.md", configuration_page)])
def test_a_page_says_what_the_code_says(name: str, make: Any) -> None:
    path = DOCS / name
    if os.environ.get("UPDATE_DOCS"):
        path.write_text(make(), encoding="utf-8")
    assert path.read_text(encoding="utf-8") == make(), (
        f"docs/{name} is out of date: run UPDATE_DOCS=1 pytest {__file__}"
    )


def test_every_setting_is_on_the_page() -> None:
    page = configuration_page()
    for forms in SECTIONS.values():
        for form in forms.by_name.values():
            assert all(f"| `{key}` |" in page for key in form.model_fields)


def test_the_example_on_the_page_is_a_configuration() -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", configuration_page(), re.DOTALL)
    assert parse(tomllib.loads(example)).method.name == "fedloru"
