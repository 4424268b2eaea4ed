"""What is imported late: libraries of extras and slow ones, checked in a new process that imports the package."""

from __future__ import annotations

import subprocess
import sys

from tests.test_imports import ALLOWED_IN

EVERYTHING = "import sys; import fedloru.public, fedloru.cli.training, fedloru.cli.methods_table, fedloru.cli.study; "
"""Imports what a command may need, without running one."""


LATE = ("rich", "plotly", "datasets", "flwr_datasets", "sklearn", "matplotlib", "mlxtend", "pyarrow", "PIL", "typer")


def test_fedloru_imports_without_the_libraries_of_its_extras() -> None:
    code = f"{EVERYTHING} print(*({set(ALLOWED_IN)!r} & sys.modules.keys()))"
    imported = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert imported == []


def test_the_engines_do_not_import_other_libraries() -> None:
    code = f"import sys; import fedloru.engine; print(*(set({LATE!r}) & sys.modules.keys()))"
    imported = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert imported == []


def test_libraries_of_the_analysis_are_not_imported_before() -> None:
    code = f"{EVERYTHING} print(*({{'scipy', 'curvlinops', 'matplotlib'}} & sys.modules.keys()))"
    imported = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert imported == []


SLOW = ("torch", "numpy", "pydantic", "safetensors", "transformers", "pandas", "plotly", "flwr")


QUICK = """
import contextlib, io, sys
import typer.main
from fedloru.cli import app

commands = typer.main.get_command(app).commands
help = [["--help"], *([name, "--help"] for name in commands)]
shown = {}
for arguments in (*help, ["--version"], ["presets"]):
    out = io.StringIO()
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(out):
        app(arguments, prog_name="fedloru")
    assert out.getvalue(), arguments
print(len(help), *({SLOW!r} & sys.modules.keys()))
"""


def test_help_version_and_presets_are_shown_without_torch() -> None:
    code = QUICK.replace("{SLOW!r}", repr(set(SLOW)))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    commands, *imported = done.stdout.split()
    assert int(commands) > 15 and imported == []


def test_the_public_names_are_imported_on_first_use() -> None:
    code = (
        "import sys, fedloru as fl; assert 'torch' not in sys.modules; assert 'fedavg' in dir(fl); "
        "import fedloru.run.loop; assert fl.run is fl.api.run; from fedloru import *; "
        "assert all(getattr(fl, name) is globals()[name] for name in fl.__all__); "
        "assert not hasattr(fl, 'nothing') and 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
