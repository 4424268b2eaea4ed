"""Engines train a cohort; ``fedloru.run`` makes a run around them.

::

    task        what an engine is asked, and what it returns      catalogue   engines by name
    sequential  one client after another: the reference           fused/      many clients in one batch
    parts/      parts of a cohort in several processes            setup       what an engine is built from
    local/      the processes of this machine                     ray/        the processes of a Ray cluster
"""

from fedloru.engine.catalogue import ENGINES, choose
from fedloru.engine.setup import Chosen, Setup
from fedloru.engine.task import Engine, Outcome, Task

__all__ = ["ENGINES", "Chosen", "Engine", "Outcome", "Setup", "Task", "choose"]
