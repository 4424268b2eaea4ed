"""Training in several processes: a cohort is split into parts, which workers train.

::

    engine  splits a cohort and joins the totals      pool    what a pool of workers does
    worker  trains one part in another process

A part is a contiguous range of the jobs, and totals are joined in the order of the parts, so the result does not depend
on which worker finishes first. A worker trains its part with the engine that was chosen for the run. There are two
kinds of pools: ``local`` has processes of this machine, and ``ray`` those of a cluster.
"""

from fedloru.engine.parts.engine import distribute

__all__ = ["distribute"]
