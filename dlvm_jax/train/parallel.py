"""Devices: the mesh, placing arrays, and the start of several processes."""

import warnings
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, Sharding

__all__ = ["devices_for", "initialise", "is_primary", "largest", "mesh", "replicate"]

LONGEST_WAIT = (
    7 * 24 * 3600
)  # seconds that the other processes wait at their end while the first one evaluates


def initialise(
    coordinator: str | None = None, processes: int | None = None, process: int | None = None
) -> None:
    """Join a run of several processes (hosts); does nothing without arguments.

    coordinator: "address:port" of process 0
    processes:   how many there are; on CPU each with one device
    process:     the number of this one

    Raises ValueError where only some are given.
    """
    given = [value is not None for value in (coordinator, processes, process)]
    if not any(given):
        return
    if not all(given):
        raise ValueError(
            "several processes need all of coordinator, processes and process, "
            f"got {coordinator!r}, {processes!r}, {process!r}"
        )
    jax.distributed.initialize(coordinator, processes, process, shutdown_timeout_seconds=LONGEST_WAIT)


def is_primary() -> bool:
    """Whether this process writes files and draws the progress bar."""
    return jax.process_index() == 0


def largest(*values: float) -> np.ndarray:
    """Of each value the largest that a process has; all processes ask together."""
    own = np.asarray(values, np.float64)
    if jax.process_count() == 1:
        return own
    return np.asarray(multihost_utils.process_allgather(own)).reshape(-1, len(values)).max(0)


def devices_for(batch_size: int) -> list[Any]:
    """All devices, or as many of them as divide the batch, with a warning; in a run of several processes always all."""
    devices = jax.devices()
    if jax.process_count() > 1:
        return devices
    count = max(n for n in range(1, len(devices) + 1) if batch_size % n == 0)
    if count < len(devices):
        warnings.warn(
            f"a batch of {batch_size} does not split over {len(devices)} devices: using {count}; "
            f"a batch size divisible by {len(devices)} would use all",
            stacklevel=2,
        )
    return devices[:count]


def mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """One axis, "data", over all devices of all processes (or those given)."""
    return Mesh(np.asarray(devices if devices is not None else jax.devices()), ("data",))


def replicate(tree: Any, sharding: Sharding) -> Any:
    """Place host arrays, equal on every process, on all devices."""
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x), np.shape(x)), tree
    )
