"""Devices: the mesh, placing arrays, and the start of several processes."""

import jax
import numpy as np
from jax.sharding import Mesh

__all__ = ["initialise", "is_primary", "mesh", "replicate"]


def initialise(coordinator=None, processes=None, process=None):
    """Join a run of several processes (hosts); does nothing without arguments.

    `coordinator` is "address:port" of process 0.  On CPU use one local device per process.  Raises ValueError unless all
    three are given.
    """
    given = [value is not None for value in (coordinator, processes, process)]
    if not any(given):
        return
    if not all(given):
        raise ValueError(
            "several processes need all of coordinator, processes and process, "
            f"got {coordinator!r}, {processes!r}, {process!r}"
        )
    jax.distributed.initialize(coordinator, processes, process)


def is_primary():
    """Whether this process writes files and draws the progress bar."""
    return jax.process_index() == 0


def mesh(devices=None):
    """One axis, "data", over all devices of all processes (or those given)."""
    return Mesh(np.asarray(devices if devices is not None else jax.devices()), ("data",))


def replicate(tree, sharding):
    """Place host arrays, equal on every process, on all devices."""
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x), np.shape(x)), tree
    )
