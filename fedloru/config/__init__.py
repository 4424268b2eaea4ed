"""The configuration: TOML in, all problems told at once, complete TOML out, and the plan that it stands for.

::

    fields    kinds of values, in words     forms    sections that come in several forms
    schema    all sections and keys         checks   what cannot be together
    parse     table → Config                source   files, presets, overrides ↔ table
    plan      Config → everything a run is made of
"""

from fedloru.config.parse import parse
from fedloru.config.plan import OPEN, completed, plan
from fedloru.config.schema import SECTIONS, Config, Forms, Top
from fedloru.config.source import DEMO, dump, load, presets, text

__all__ = [
    "DEMO",
    "OPEN",
    "SECTIONS",
    "Config",
    "Forms",
    "Top",
    "completed",
    "dump",
    "load",
    "parse",
    "plan",
    "presets",
    "text",
]
