"""Wrappers: functions that return a method with one or more of its functions replaced."""

from fedloru.methods.wrappers import catalogue
from fedloru.methods.wrappers.catalogue import *  # noqa: F403  # the public functions of the catalogue
from fedloru.settings import Table, listed

WRAPPERS = Table("wrapper", listed(catalogue))
"""The wrappers by name, in the order in which a configuration applies them, innermost first."""
