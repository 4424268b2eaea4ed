"""A pool of workers in the processes of a Ray cluster, for simulations that outgrow a machine.

::

    pool     workers, and what a lost worker was training      cluster  the connection to Ray
    worker   trains one part in another process                packing  tensors as arrays, sent without copies

Ray sends Python objects with cloudpickle, so all machines of a cluster, and everybody who can reach its ports, must
trust each other. The package itself pickles nothing: tensors are sent as arrays, and a method by its name and settings.
Only the model, an object of the user's own code, is left to cloudpickle.
"""

from fedloru.engine.ray.pool import Pool

__all__ = ["Pool"]
