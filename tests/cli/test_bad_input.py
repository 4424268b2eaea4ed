"""Bad input: exit code 2, a message without a traceback, and nothing written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import Cli

SETTINGS = {
    "unknown key": (["client.learnrate=1"], "client.learnrate is not a setting"),
    "wrong type": (["client.lr=fast"], "client.lr is 'fast', expected a number >= 0"),
    "two problems": (["rounds=0", "qqq=1"], "small has 2 problems"),
    "cohort larger than the clients": (["cohort.size=11"], "cohort.size is 11, but partition.clients is 10"),
    "no path": (["data.source=parquet"], "data.path is missing"),
    "not an override": (["lr"], "'lr' is not of the form key=value"),
}
DATA = {
    "empty clients": (["partition.clients=1500", "partition.scheme=iid"], "cannot give 1500 clients at least 1"),
    "minimum not reached": (["partition.min_examples=140"], "140"),
    "impossible minimum": (["partition.min_examples=150"], "cannot give 10 clients at least 150"),
    "no such data": (["data.source=parquet", "data.path=nowhere"], "there is no file or folder nowhere"),
    "no such column": (["data.source=npz", "data.path=own.npz", "data.columns=['ward']"], "'ward'"),
    "labels that are not classes": (["data.source=npz", "data.path=odd.npz"], "needs one class per example"),
}
MODEL = {
    "rank too large": (["lowrank.rank=500"], "got rank 500"),
    "model without any site": (["lowrank.targets=['nothing*']"], "no layer matches 'nothing*'"),
    "no such device": (["engine.device=cuda:77"], "cannot be used"),
}


@pytest.mark.parametrize("command", ["run", "cost"])
@pytest.mark.parametrize(("changes", "message"), (SETTINGS | DATA | MODEL).values(), ids=SETTINGS | DATA | MODEL)
def test_bad_input(cli: Cli, command: str, changes: list[str], message: str) -> None:
    refused(cli, command, changes, message)


@pytest.mark.parametrize(("changes", "message"), (SETTINGS | DATA).values(), ids=SETTINGS | DATA)
def test_an_audit_checks_settings_and_data(cli: Cli, changes: list[str], message: str) -> None:
    refused(cli, "audit", changes, message)


def refused(cli: Cli, command: str, changes: list[str], message: str) -> None:
    np.savez("own.npz", x=np.zeros((40, 3), np.float32), y=np.arange(40) % 2)
    np.savez("odd.npz", x=np.zeros((40, 3), np.float32), y=np.linspace(0, 1, 40))
    before = sorted(Path().rglob("*"))
    result = cli(command, "small", *(argument for change in changes for argument in ("-s", change)), code=2)
    assert message in result.stderr
    assert result.stderr.startswith("Error: ")
    assert result.stdout == ""
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("run", "nowhere.toml"), "there is no such file and no such preset"),
        (("run", "broken.toml"), "not valid TOML"),
        (("config", "paper-cifar10"), "data.path is missing"),
        (("resume", "nowhere"), "nowhere is not a run folder"),
        (("resume", "."), "is not a run folder"),
        (("resume", "damaged"), "config.toml cannot be read"),
        (("resume", "edited"), "edited/config.toml has 1 problem"),
        (("report", "nowhere"), "nowhere does not exist"),
        (("report", "."), "is not a run folder"),
    ],
)
def test_a_missing_or_invalid_file_or_folder_is_refused(cli: Cli, args: tuple[str, ...], message: str) -> None:
    Path("broken.toml").write_text("[client\n")
    for name, text in (("damaged", "[client\n"), ("edited", "ronds = 3\n")):
        Path(name).mkdir()
        (Path(name) / "config.toml").write_text(text)
    assert message in cli(*args, code=2).stderr


def test_a_folder_that_cannot_be_written_is_reported(cli: Cli) -> None:
    Path("file").write_text("")
    result = cli("run", "small", "-s", "rounds=1", "--out", "file/run", code=2)
    assert "file/run" in result.stderr


def test_an_unknown_command_names_the_nearest(cli: Cli) -> None:
    assert "Did you mean 'run'?" in cli("rnu", code=2).stderr
