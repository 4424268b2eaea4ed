"""The help of every command says what its arguments are, in every supported version of typer and click."""

from __future__ import annotations

from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from fedloru.cli import app

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def arguments(command: Any) -> list[Any]:
    return [parameter for parameter in command.params if parameter.param_type_name == "argument"]


@pytest.mark.parametrize("name", COMMANDS)
def test_docstrings_explain_positional_arguments(name: str) -> None:
    for argument in arguments(COMMANDS[name]):
        assert f"{argument.metavar} is " in COMMANDS[name].callback.__doc__


@pytest.mark.parametrize("name", COMMANDS)
def test_help_explains_each_argument_once(name: str) -> None:
    shown = CliRunner().invoke(app, [name, "--help"], terminal_width=200).stdout
    assert "Arguments:" not in shown  # whose texts are missing in some versions
    assert "\\" not in shown
    for argument in arguments(COMMANDS[name]):
        assert shown.count(f"{argument.metavar} is ") == 1


def test_some_commands_have_arguments() -> None:
    assert sum(bool(arguments(command)) for command in COMMANDS.values()) >= 10
