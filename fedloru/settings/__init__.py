"""The settings of functions and records, and tables of named entries.

::

    types        the types of settings          declaration   the settings of a function or record
    table        entries by name, and references to your own functions
    parameters   functions with the parameters of a record
"""

from fedloru.settings.declaration import REQUIRED, Setting, check, help_of, problems_of, settings_of, summary_of
from fedloru.settings.table import PREFIX, In, Table, calling, is_reference, listed, resolve, short
from fedloru.settings.types import Expected, When, expectation, one_of

__all__ = [
    "PREFIX",
    "REQUIRED",
    "Expected",
    "In",
    "Setting",
    "Table",
    "When",
    "calling",
    "check",
    "expectation",
    "help_of",
    "is_reference",
    "listed",
    "one_of",
    "problems_of",
    "resolve",
    "settings_of",
    "short",
    "summary_of",
]
