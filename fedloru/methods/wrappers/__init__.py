"""Wrappers: a method in, a method out, one function replaced."""

from fedloru.methods.wrappers.clip import clip
from fedloru.methods.wrappers.prox import prox
from fedloru.methods.wrappers.server_opt import server_opt

__all__ = ["clip", "prox", "server_opt"]
