"""The table and the sentences that ``align`` prints."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from fedloru.cli.alignment_table import shown, table, verdicts


def row(rank: int | None, gain: float, error: float | None = 0.01) -> dict[str, Any]:
    known = {"cosine": 0.1, "error": error, "chance": 5.7e-5, "energy": 0.515, "shared": 4.58}
    return known | {"rank": rank, "gain": gain, "gain_error": error}


def figures(*rows: dict[str, Any], clients: int = 3, few: int = 0) -> dict[str, Any]:
    held = [{"client": client, "examples": 5, "few": client < few} for client in range(clients)]
    return {"of": {"round": 0}, "clients": held, "agreement": {"all": rows, "fc1.weight": rows}}


def test_significant_gains_are_listed() -> None:
    rows = (row(1, -0.05), row(2, 0.015), row(4, 0.021), row(8, 0.0004, 0.0), row(16, 0.03), row(None, 0.0))
    assert list(verdicts(figures(*rows))) == [
        "Ranks at which truncated gradients agree better than full ones: 4 (+0.021), 16 (+0.030); worse: 1 (-0.050) "
        "(gains beyond 2 standard errors)."
    ]


def test_two_clients_have_no_errors_and_no_verdict() -> None:
    assert list(verdicts(figures(row(1, 0.5, None), row(None, 0.0, None), clients=2))) == []


def test_the_overlap_of_two_spans_is_symmetric() -> None:
    """Three gradients cannot contain 10 eigenvectors, so the sentence must not say which span contains the other."""
    known = {"eigenvalues": [1.0] * 10, "parameters": 5000, "shares": [0.2, 0.4, 0.6]}
    space = known | {"share_by_chance": 0.002, "overlap": 0.84, "overlap_by_chance": 0.002}
    *_, shares, overlap = verdicts(figures(row(1, 0.0), row(None, 0.0)) | {"eigenspace": space})
    assert "The top 10 eigenvectors of the server's Hessian (5,000 dimensions) span 40.0 %" in shares
    assert overlap.startswith("The span of the 3 gradients and the span of these eigenvectors overlap by 84.0 % (100")


def test_the_table_fits_a_narrow_terminal() -> None:
    console = Console(width=80)
    rows = (row(128, -0.0001), row(None, 0.0))
    with console.capture() as seen:
        console.print(table(shown(figures(*rows), layers=True)))
    words = " ".join(seen.get().split())
    assert "fc1.weight 128 0.100 ± 0.010 +0.000 ± 0.010 ±5.7e-05 52% 458%" in words
    assert shown(figures(*rows), layers=False).keys() == {"all"}
