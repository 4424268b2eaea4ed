"""The configuration: TOML in, all problems at once, complete TOML out, and the plan that it describes.

::

    fields    what sections are made of       derive   sections from declarations
    schema    all sections                    methods  [method] and the wrappers        forms   data, partitions, models
    parse     table → Config                  checks   what cannot be set together
    source    files, presets and overrides    parts    Config → the model, the method and the recipe
    plan      Config → everything a run is made of
"""

from fedloru.config.derive import Forms
from fedloru.config.parse import parse
from fedloru.config.plan import OPEN, completed, plan
from fedloru.config.schema import SECTIONS, Config, Top
from fedloru.config.source import DEMO, dump, has, load, stored, text
from fedloru.presets import presets

__all__ = [
    "DEMO",
    "OPEN",
    "SECTIONS",
    "Config",
    "Forms",
    "Top",
    "completed",
    "dump",
    "has",
    "load",
    "parse",
    "plan",
    "presets",
    "stored",
    "text",
]
