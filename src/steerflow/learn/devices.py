"""Training over several devices and processes: what lies where, and what the processes agree on.

One program runs on all devices (GSPMD): its results do not depend on how arrays are laid out, but for rounding. All
processes draw the same batches, functions of (seed, step), and keep the part of their own devices; the first of them alone
writes, all read the same folders.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from steerflow.data.index import Chunks, Windows
from steerflow.errors import SteerflowError
from steerflow.learn.config import TrainConfig

_AXIS = "devices"
# Axes behind the seed's: the batch is the first axis, but for what every task has of its own.
_BATCH = {"returns": 1, "bootstrap": 1, "rewards": 1, "masks": 1}


def join() -> None:
    """Join the processes that train together; before anything else is asked of jax. Raises where there are no others.

    SLURM, MPI and Kubernetes are known to jax; elsewhere JAX_COORDINATOR_ADDRESS (host:port of the first process),
    JAX_NUM_PROCESSES and JAX_PROCESS_ID tell.
    """
    if jax.distributed.is_initialized():
        return
    numbers = [os.environ.get(name) for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID")]
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        processes, process = (None if number is None else int(number) for number in numbers)
        jax.distributed.initialize(num_processes=processes, process_id=process)
    except (ValueError, RuntimeError) as error:
        raise SteerflowError(
            f"The processes that train together could not find each other ({error}). Start them with srun or mpirun, or "
            "set JAX_COORDINATOR_ADDRESS=HOST:PORT of the first, JAX_NUM_PROCESSES and JAX_PROCESS_ID (from 0) for each."
        ) from error


@dataclass(frozen=True)
class Layout:
    """Where the arrays of training lie, on a row of devices.

    shard: "batch": every batch is split, all else is on every device; "parameters": parameters and Adam's moments are split
    as well, each along its largest axis that the number of devices divides; "seeds": each device trains its own seeds.
    """

    mesh: Mesh
    shard: str = "batch"

    @staticmethod
    def of(config: TrainConfig) -> Layout:
        """The layout that ``config`` asks for; raises SteerflowError where the machine or the sizes do not allow it."""
        devices = jax.devices()
        count = config.devices
        if count == "auto":
            count = len(devices) if jax.process_count() > 1 else 1
        if not 1 <= count <= len(devices):
            raise SteerflowError(
                f"{count} devices were asked for, but there are {len(devices)} ({devices[0].platform}). Give --devices "
                f"{len(devices)} or fewer; to split a CPU: XLA_FLAGS=--xla_force_host_platform_device_count={count}"
            )
        if jax.process_count() > 1 and count != len(devices):
            raise SteerflowError(f"Processes that train together use all their {len(devices)} devices: --devices auto")
        size, what, option = config.batch, "chunks of a batch", "--batch"
        if config.shard == "seeds":
            size, what, option = len(config.seeds), "seeds", "--seeds"
        if size % count:
            raise SteerflowError(
                f"{size} {what} cannot be split over {count} devices. Give {option} a multiple of {count}, or other --devices."
            )
        return Layout(Mesh(np.array(devices[:count]), (_AXIS,), axis_types=(AxisType.Auto,)), config.shard)

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes."""
        return jax.process_index() == 0

    @property
    def everywhere(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec())

    def of_state(self, shapes: Any) -> Any:
        """The shardings of a TrainState, from its shapes; leaves have a leading axis over seeds."""
        return jax.tree.map(self._of_leaf, shapes)

    def _of_leaf(self, leaf: Any) -> NamedSharding:
        count = self.mesh.size
        if self.shard == "seeds":
            return self._split(0)
        axes = [axis for axis in range(1, leaf.ndim) if leaf.shape[axis] % count == 0]
        if self.shard == "batch" or not axes:
            return self.everywhere
        return self._split(max(axes, key=lambda axis: leaf.shape[axis]))

    def _split(self, axis: int) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec(*[None] * axis, _AXIS))

    def _of_batches(self, batches: Any, leading: int) -> Any:
        """Shardings of Windows or Chunks whose batch axes come after ``leading`` axes, of which the last is the seeds'."""
        if self.shard == "seeds":
            return jax.tree.map(lambda _: self._split(leading - 1), batches)
        return type(batches)(*(self._split(leading + _BATCH.get(name, 0)) for name in batches._fields))

    def constrain(self, chunks: Chunks) -> Chunks:
        """Inside a compiled call: let the batches of all seeds lie where they belong."""
        return jax.lax.with_sharding_constraint(chunks, self._of_batches(chunks, 1))

    def put_payload(self, payload: Any) -> Any:
        """A feed's payload for one call; leaves have leading axes (steps, seeds)."""
        if isinstance(payload, Windows):
            return self.put(payload, self._of_batches(payload, 2))
        return self.put(payload, self.everywhere)

    def put(self, tree: Any, shardings: Any) -> Any:
        """Arrays that every process holds in full, onto the devices; ``shardings`` is one of all, or a tree of them."""
        if jax.process_count() == 1:
            return jax.device_put(tree, shardings)
        if isinstance(shardings, NamedSharding):
            shardings = jax.tree.map(lambda _: shardings, tree)

        def put(x: Any, sharding: NamedSharding) -> jax.Array:
            x = np.asarray(x)
            return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

        return jax.tree.map(put, tree, shardings)

    def get(self, tree: Any) -> Any:
        """The arrays in full as numpy, in every process; all must call it."""

        def get(x: jax.Array) -> np.ndarray:
            whole = x.is_fully_addressable or x.is_fully_replicated
            return np.asarray(x if whole else multihost_utils.process_allgather(x, tiled=True))

        return jax.tree.map(get, tree)

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, whether any process raised it; all must call it."""
        if jax.process_count() == 1:
            return flags
        return tuple(bool(flag) for flag in multihost_utils.process_allgather(np.array(flags)).any(axis=0))

    def lead(self, function: Callable[[], Any]) -> None:
        """Call ``function`` in the process that writes while the others wait; its errors end all."""
        error = None
        if self.leads:
            try:
                function()
            except SteerflowError as raised:
                error = raised
        if self.any(error is not None)[0]:
            raise error or SteerflowError("The first process could not go on; its message says why.")

    def require_equal(self, number: int, message: str) -> None:
        """Raise SteerflowError with ``message`` if the processes do not all have the same number; all must call it."""
        if jax.process_count() > 1 and len(set(multihost_utils.process_allgather(np.array(number)).tolist())) > 1:
            raise SteerflowError(f"{message}; all need the same folders, such as those of a shared file system.")
