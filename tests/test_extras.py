"""Every extra installs under the constraints, and brings what it is for.

Each extra is installed into a new environment that has only the package and its dependencies. Installing torch takes
most of the time, so each worker does it once; the environments of the extras are copies of this one, by hard links.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
TIMEOUT = 900
"""The largest number of seconds that one command may take."""

CURVATURE = "curvlinops, scipy.stats, matplotlib.figure, fedloru.analysis.curvature, fedloru.analysis.figures"
FLOWER = "flwr.serverapp, flwr.clientapp, cryptography.x509, httpx, uvicorn"
IMPORTS = {
    "data": "datasets, flwr_datasets.partitioner, pyarrow.parquet, PIL.Image, fedloru.data.parquet_rows",
    "flower": f"{FLOWER}, fedloru.flower.certificates, fedloru.flower.proxy",
    "hf": "transformers, peft, tokenizers, datasets, fedloru.hf.nets, fedloru.hf.adapter",
    "analysis": CURVATURE,
    "ray": "ray",
    "track": "tensorboard, torch.utils.tensorboard, mlflow, wandb",
    "docs": "mkdocs.commands.build, material, mkdocstrings, mkdocstrings_handlers.python",
    "dev": f"pre_commit, yaml, mypy.api, pytest, xdist, hypothesis, mkdocs, transformers, peft, ray, {FLOWER}",
}
"""For each extra, the modules that it must bring, or that must be importable with it."""


class Environment(NamedTuple):
    """A virtual environment, and a wheel of the package."""

    folder: Path
    wheel: Path

    def python(self, *arguments: str) -> str:
        """Run Python in the environment, outside of the repository, and return what it prints."""
        program = self.folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        settings = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
        done = subprocess.run(
            [str(program), *arguments],
            cwd=self.folder,
            env=settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT,
        )
        assert done.returncode == 0, f"{arguments} failed:\n{done.stdout[-5000:]}"
        return done.stdout

    def install(self, extra: str = "") -> None:
        requirement = f"fedloru{extra and f'[{extra}]'} @ {self.wheel.as_uri()}"
        self.python("-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt"), requirement)


def link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # the file system has no hard links
        shutil.copy2(source, target)


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    """An environment with the package and its dependencies."""
    place = tmp_path_factory.mktemp("extras")
    source = place / "source"  # pip builds in the source folder, which two workers must not share
    shutil.copytree(ROOT / "fedloru", source / "fedloru", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run([sys.executable, "-m", "venv", str(place / "core")], check=True, timeout=TIMEOUT)
    environment = Environment(place / "core", source)
    environment.python("-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(place), str(source))
    (wheel,) = place.glob("*.whl")
    environment = environment._replace(wheel=wheel)
    environment.install()
    yield environment
    shutil.rmtree(place)


@pytest.fixture
def copied(core: Environment, tmp_path: Path) -> Iterator[Environment]:
    shutil.copytree(core.folder, tmp_path / "venv", symlinks=True, copy_function=link)
    yield core._replace(folder=tmp_path / "venv")
    shutil.rmtree(tmp_path / "venv")


def test_every_extra_is_tested() -> None:
    assert IMPORTS.keys() == EXTRAS.keys()


@pytest.mark.slow
def test_the_command_needs_no_extra(core: Environment) -> None:
    assert "presets" in core.python("-m", "fedloru", "--help")
    core.python("-m", "fedloru", "cost", "demo")


@pytest.mark.slow
@pytest.mark.parametrize("extra", EXTRAS)
def test_extra_installs_and_imports(extra: str, copied: Environment) -> None:
    copied.install(extra)
    copied.python("-W", "ignore", "-c", f"import {IMPORTS[extra]}")
    copied.python("-m", "pip", "check")
    assert str(copied.folder) in copied.python("-c", "import fedloru; print(fedloru.__file__)")
