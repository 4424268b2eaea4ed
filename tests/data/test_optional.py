"""What works without the optional dependencies of the extra ``data``, and the error message where they are needed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fedloru.data import dirichlet, load, shards, synthetic
from fedloru.errors import MissingExtraError, optional

PACKAGES = ("datasets", "flwr_datasets", "pyarrow", "PIL")

WITHOUT_PACKAGES = f"""
import sys, tomllib
from pathlib import Path

sys.modules.update(dict.fromkeys({PACKAGES}))

import fedloru
from fedloru.cli import main
from fedloru.data import audit, iid, load, make_partition, synthetic

preset = tomllib.loads((Path(fedloru.__file__).parent / "presets" / "demo.toml").read_text())
demo = load(**preset["data"])
print("demo", audit(demo, make_partition(demo, **preset["partition"])).clients)
for data in (load("digits"), load("synthetic"), synthetic(200), load("npz", path=sys.argv[1])):
    print(data.name, audit(data, iid(data, 5)).clients)
sys.argv[1:] = ["audit", "demo"]
main()
"""


@pytest.fixture
def blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make imports of the packages and of their submodules fail as if they were not installed."""
    for name in [name for name in sys.modules if name.partition(".")[0] in PACKAGES]:
        monkeypatch.delitem(sys.modules, name)
    for name in PACKAGES:
        monkeypatch.setitem(sys.modules, name, None)


def test_demo_and_bundled_sources_need_no_extra(tmp_path: Path) -> None:
    np.savez(tmp_path / "vectors.npz", x=np.random.default_rng(0).normal(size=(50, 3)), y=np.arange(50) % 2)
    command = [sys.executable, "-c", WITHOUT_PACKAGES, str(tmp_path / "vectors.npz")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    assert done.stdout.splitlines()[:5] == ["demo 20", "digits 5", "synthetic 5", "synthetic 5", "vectors 5"]
    assert "mnist5k" in done.stdout


@pytest.mark.parametrize(
    ("scheme", "partition"),
    [
        ("dirichlet", lambda data: dirichlet(data, 5, 1.0)),
        ("shards", lambda data: shards(data, 5, 2)),
    ],
)
def test_schemes_name_the_extra(scheme: str, partition: Callable[..., object], blocked: None) -> None:
    with pytest.raises(MissingExtraError) as error:
        partition(synthetic(200))
    assert str(error.value) == (
        f"the partition scheme '{scheme}' requires flwr_datasets: install it with `pip install 'fedloru[data]'`"
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for row in range(4):
        file = tmp_path / "train" / ("cat", "dog")[row % 2] / f"{row}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((6, 6), row, np.uint8)).save(file)
    images = [file.read_bytes() for file in sorted(tmp_path.rglob("*.png"))]
    pq.write_table(pa.table({"image": images, "label": [0, 0, 1, 1]}), tmp_path / "train.parquet")
    return tmp_path


@pytest.mark.parametrize(
    ("source", "purpose", "package"),
    [
        ("parquet", "reading parquet files", "pyarrow"),
        ("folder", "decoding images", "PIL"),
        ("hub", "loading a data set of the Hugging Face hub", "datasets"),
    ],
)
def test_sources_name_the_extra(source: str, purpose: str, package: str, folder: Path, blocked: None) -> None:
    with pytest.raises(MissingExtraError) as error:
        load(source, path=str(folder))
    assert str(error.value) == f"{purpose} requires {package}: install it with `pip install 'fedloru[data]'`"


def test_optional_returns_the_module() -> None:
    assert optional("pyarrow.parquet", extra="data", purpose="reading parquet files") is pq


def test_errors_inside_an_installed_package_are_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "installed_but_broken.py").write_text("import no_such_dependency")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        optional("installed_but_broken", extra="data", purpose="a test")
    with pytest.raises(ModuleNotFoundError, match="no_such_submodule"):
        optional("pyarrow.no_such_submodule", extra="data", purpose="a test")
