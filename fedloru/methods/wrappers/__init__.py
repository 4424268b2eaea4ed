"""Wrappers: a method in, a method out, one function replaced."""

from fedloru.methods.wrappers.clip import clip
from fedloru.methods.wrappers.prox import prox
from fedloru.methods.wrappers.scaffold import scaffold
from fedloru.methods.wrappers.server_opt import server_opt

__all__ = ["clip", "prox", "scaffold", "server_opt"]
