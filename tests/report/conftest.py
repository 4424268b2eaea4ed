from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedloru.report import Records, read, write

from .browser import browser, prefer, resize
from .made_up import EVIL, alignment, hostile, ranks, write_federation, write_run, write_study


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "demo")


@pytest.fixture
def records(run: Path) -> Records:
    return read(run)


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def driver(downloads: Path) -> Iterator[Any]:
    with browser(downloads) as driver:
        yield driver


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page of a federation with all kinds of figures and tables, and with long and hostile names."""
    names = [EVIL, "a-name-without-any-space-" * 3, *(f"site {number}" for number in range(10))]
    run = write_federation(tmp_path_factory.mktemp("runs") / "demo", names)
    hostile(run)
    write_study(run, "ranks", ranks(10))
    write_study(run, "alignment", alignment(10))
    return write(run)


@pytest.fixture
def opened(driver: Any, page: Path) -> Any:
    prefer(driver, "light")
    resize(driver, 1200)
    driver.get(page.as_uri())
    driver.execute_script("localStorage.clear()")
    driver.refresh()
    driver.get_log("browser")
    return driver
