import math

import pytest

from fedloru.report import units


@pytest.mark.parametrize(
    ("formatted", "expected"),
    [
        (units.megabytes(0), "0 MB"),
        (units.megabytes(3_400), "0.0034 MB"),
        (units.megabytes(1_200_000), "1.20 MB"),
        (units.megabytes(23_080_000), "23.1 MB"),
        (units.megabytes(1_287_200_000), "1,287 MB"),
        (units.memory(612_345_678), "612 MB"),
        (units.memory(1_840_000_000), "1.84 GB"),
        (units.percent(0.93449), "93.4 %"),
        (units.decimal(0.41234), "0.412"),
        (units.decimal(2.9091448859e16), "2.909e+16"),
        (units.times(0.0633), "15.8× fewer"),
        (units.times(1.25), "1.2× as many"),
        (units.duration(0.42), "0.42 s"),
        (units.duration(59.7), "1 min 00 s"),
        (units.duration(16), "16 s"),
        (units.duration(185), "3 min 05 s"),
        (units.duration(7_980), "2 h 13 min"),
        (units.plain(4841), "4,841"),
        (units.plain(0.57312), "0.5731"),
        (units.plain("dirichlet"), "dirichlet"),
    ],
)
def test_number_formats(formatted: str, expected: str) -> None:
    assert formatted == expected


def test_a_missing_value_is_a_dash() -> None:
    assert {units.megabytes(None), units.percent(math.nan), units.duration(None), units.times(None)} == {units.DASH}
