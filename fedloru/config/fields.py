"""The base class of the sections of a configuration, and types that only sections use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

from fedloru.errors import quoted
from fedloru.settings import Expected, expectation
from fedloru.settings.types import Fraction

Capacities = Annotated[
    dict[Annotated[str, Field(pattern=r"^[1-9]\d*$")], Fraction],
    Expected("a table from ranks, integers >= 1, to shares in (0, 1)"),
]


class Section(BaseModel):
    """A table of the configuration: immutable, without unknown keys or type coercion."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        arbitrary_types_allowed=True,
    )

    if TYPE_CHECKING:  # the fields of most sections are derived from declarations

        def __getattr__(self, name: str) -> Any:
            """Return a setting."""


def expected(field: FieldInfo) -> str:
    """Return the phrase for the expected values of a setting."""
    return next((item.text for item in field.metadata if hasattr(item, "text")), "") or expectation(field.annotation)


def shown(value: Any) -> str:
    """Return a value as TOML writes it, cut to 80 characters."""
    return str(value).lower() if isinstance(value, bool) else quoted(value)
