"""All wrappers, one line each, in the order in which a configuration applies them, innermost first."""

# ruff: isort: skip_file
from fedloru.methods.wrappers.prox import prox as prox
from fedloru.methods.wrappers.server_opt import server_opt as server_opt
from fedloru.methods.wrappers.scaffold import scaffold as scaffold
from fedloru.methods.wrappers.clip import clip as clip
from fedloru.methods.wrappers.robust import robust as robust
