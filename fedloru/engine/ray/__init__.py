"""The Ray engine: trains parts of a cohort in the processes of a Ray cluster, for simulations that outgrow a machine.

::

    engine   splits a cohort and joins the totals      pool      workers, and what a lost worker was training
    worker   trains one part in another process        packing   tensors as arrays, which Ray sends without copies
    cluster  the connection to Ray

A part is a contiguous range of the jobs, and totals are joined in the order of the parts, so the result does not depend
on which worker finishes first. A worker trains its part with the engine that ``auto`` chooses.

Ray sends Python objects with cloudpickle, so all machines of a cluster, and everybody who can reach its ports, must
trust each other. The package itself pickles nothing: tensors are sent as arrays, and a method by its name and settings.
Only the model, an object of the user's own code, is left to cloudpickle.
"""

from fedloru.engine.ray.engine import distribute

__all__ = ["distribute"]
