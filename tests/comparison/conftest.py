import pytest

from fedloru.comparison.groups import Group, grouped
from fedloru.report import Records
from tests.report.conftest import records as records
from tests.report.conftest import run as run

from .made_up import variant


@pytest.fixture
def groups(records: Records) -> list[Group]:
    """Three seeds of FedLoRU, and one of FedLoRA with half of the bytes up."""
    runs = [variant(records, seed, "fedloru", 0.02 * seed) for seed in range(3)]
    cheap = [row | {"up_bytes_total": row["up_bytes_total"] // 2} for row in records.rounds]
    return grouped([*runs, variant(records._replace(rounds=cheap), 0, "fedlora", -0.1)])
