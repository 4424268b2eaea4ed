"""The result of a check: one verdict for each law."""

from __future__ import annotations

from typing import NamedTuple


class Verdict(NamedTuple):
    """Whether a law holds (None: not checked); ``detail`` is the reason if not, or else the law as a sentence."""

    law: str
    holds: bool | None
    detail: str


class Report(NamedTuple):
    """The verdicts for a method; it prints as a table."""

    method: str
    verdicts: tuple[Verdict, ...]

    @property
    def holds(self) -> bool:
        """Whether no law fails; laws that were not checked do not count."""
        return not self.failed

    @property
    def failed(self) -> tuple[str, ...]:
        """The names of the laws that fail."""
        return tuple(verdict.law for verdict in self.verdicts if verdict.holds is False)

    def __str__(self) -> str:
        """Return a table with one line for each law."""
        marks = {True: "holds", False: "FAILS", None: "  –  "}
        width = max(len(verdict.law) for verdict in self.verdicts)
        lines = [f"{marks[verdict.holds]}  {verdict.law:<{width}}  {verdict.detail}" for verdict in self.verdicts]
        return "\n".join(lines)

    def __repr__(self) -> str:
        """Return the table."""
        return str(self)
