"""A pool of workers in processes of this machine, each with one thread.

::

    pool     starts processes, and gives them parts      process  what runs in a process
    frames   calls and results as bytes: JSON and safetensors

A process makes the model again from its ``Net.source``, and is a new interpreter (nothing is forked or pickled), so it
works alike on all systems. It does not import the user's script. The examples and the base are in files that all
processes map into memory. A process ends when its pipe is closed, so none outlives the run.
"""

from fedloru.engine.local.pool import Pool

__all__ = ["Pool"]
