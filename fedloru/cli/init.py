"""The command that writes a configuration: init."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from fedloru.cli.app import COMMAND_LINE, app, check_place, say
from fedloru.errors import ConfigError, FedloruError

DEFAULT = Path("fedloru.toml")


@app.command()
def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", hidden=True)] = DEFAULT,
    data: Annotated[str | None, typer.Option(metavar="KIND", help="built-in, images, table or text.")] = None,
    path: Annotated[
        str | None, typer.Option(metavar="PATH", help="The file or folder of the data, or the built-in data set.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="The model, such as mlp, cnn or hf:FOLDER.")
    ] = None,
    clients: Annotated[
        str | None,
        typer.Option(metavar="N|file|COLUMN", help="A number of equal parts; one per file, or per value of a column."),
    ] = None,
    method: Annotated[str | None, typer.Option(metavar="METHOD", help="The method; see `fedloru methods`.")] = None,
) -> None:
    """Write a commented configuration, from your answers to five questions.

    FILE is the file to write (default: fedloru.toml); an existing file is not overwritten.

    Looks at the data to propose answers. An option answers its question; without a terminal, the other answers are
    those that would be proposed. Example: fedloru init heart.toml --data table --path hospitals --clients file.
    """
    from fedloru.cli import draft, looks

    check_place(file)
    if file.exists():
        raise ConfigError([f"{file} exists already: name another file, or remove it"], COMMAND_LINE)
    if data is None and (model or "").startswith("hf:"):
        data = looks.TEXT
    near = _near(path, data, looks)
    kind = _answer("What data? built-in, images, table or text", data, near.kind if near else looks.BUILT_IN, _kind)
    place = near.data["path"] if near and near.kind == kind else "digits" if kind == looks.BUILT_IN else ""
    found = draft.data(kind, _answer("Where is it?", path, place, lambda answer: draft.data(kind, answer)))
    name = _answer("Which model?", model, draft.model_for(found), lambda answer: draft.model(answer, found))
    many = draft.PER_FILE if found.sites > 1 else found.client or str(draft.CLIENTS)
    question = "How many clients? A number, or a column" + ", or 'file': one per file" * (found.sites > 1)
    who, count = draft.clients(_answer(question, clients, many, lambda answer: draft.clients(answer, found)), found)
    how = _answer("Which method?", method, "fedloru", draft.method)
    text = draft.text(draft.Answers(found, draft.model(name, found), who, count, draft.method(how)), file.name)
    with file.open("x", encoding="utf-8") as opened:
        opened.write(text)
    typer.echo(f"Written: {file}")
    say(f"Next: `fedloru audit {file}` shows the data, `fedloru run {file}` trains.")


def _near(path: str | None, kind: str | None, looks: Any) -> Any:
    """Return the data at ``path``, or the first in the working directory; None if there is none."""
    if path is None:
        return looks.around(Path())
    return looks.look(Path(path), kind) if Path(path).exists() else None


def _kind(answer: str) -> None:
    from fedloru.cli.draft import KINDS, unknown_kind

    if answer not in KINDS:
        raise ConfigError([unknown_kind(answer)], COMMAND_LINE)


def _answer(question: str, given: str | None, proposed: str, check: Callable[[str], object]) -> str:
    """Return the answer that is ``given``; that of the user, asked until it passes ``check``; or the proposed one."""
    if given is not None or not is_interactive():
        answer = proposed if given is None else given
        check(answer)
        return answer
    while True:
        answer = str(typer.prompt(question, default=proposed or None, err=True))
        try:
            check(answer)
        except FedloruError as error:
            say(str(error))
        else:
            return answer


def is_interactive() -> bool:
    """Return whether questions can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()
