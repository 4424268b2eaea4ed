from pathlib import Path

import pytest

from fedloru.report import Records, read

from .made_up import write_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "demo")


@pytest.fixture
def records(run: Path) -> Records:
    return read(run)
