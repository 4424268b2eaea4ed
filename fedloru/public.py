"""The public names of the package, which ``fedloru`` imports on first use."""

from fedloru import config, data, hf, methods, models
from fedloru.api import resume, run, start
from fedloru.comparison import compare
from fedloru.errors import FedloruError
from fedloru.exports import export
from fedloru.laws import check
from fedloru.method import Down, Method, Phase, Profile, State, Total, Traits, Up, Values
from fedloru.methods import blocks
from fedloru.methods.catalogue import *  # noqa: F403  # every method
from fedloru.methods.wrappers.catalogue import *  # noqa: F403  # every wrapper
from fedloru.net import Net, attach, make
from fedloru.recipe import Recipe
from fedloru.run.callbacks import Callback
from fedloru.run.loop import Run

__all__ = [
    "Callback",
    "Down",
    "FedloruError",
    "Method",
    "Net",
    "Phase",
    "Profile",
    "Recipe",
    "Run",
    "State",
    "Total",
    "Traits",
    "Up",
    "Values",
    "attach",
    "blocks",
    "check",
    "compare",
    "config",
    "data",
    "export",
    "hf",
    "make",
    "methods",
    "models",
    "resume",
    "run",
    "start",
    *methods.METHODS,
    *methods.WRAPPERS,
]
