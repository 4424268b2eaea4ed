"""The tests use a separate cache, and no test disables the log for the next one."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from fedloru.cache import VARIABLE


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def enabled_log() -> Iterator[None]:
    yield
    logging.disable(logging.NOTSET)
