"""What a training run will take of the memory, told before it starts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax

from steerflow.data.feed import free_device_memory, resident_bytes
from steerflow.data.store import Store
from steerflow.errors import SteerflowError
from steerflow.learn.devices import Layout

_DATA, _STATE, _BATCHES, _TEMPORARIES = "data", "networks and optimisers", "batches", "temporaries"
# What to type where a part is too large.
_ADVICE = {
    _DATA: "--feed stream leaves the data on disk",
    _STATE: "train fewer --seeds or --tasks at a time, or more --devices with --shard parameters",
    _BATCHES: "a smaller --batch or --call-updates",
    _TEMPORARIES: "a smaller --batch, or fewer --seeds or --tasks at a time",
}


class Memory:
    """Bytes by part that training takes, against what is free: of each accelerator, or of this machine for a CPU's devices."""

    def __init__(self, layout: Layout) -> None:
        mine = [device for device in layout.mesh.devices.flat if device.process_index == jax.process_index()]
        self._free = free_device_memory(mine[0])
        # A CPU's devices share the machine's memory, also with what is on its way to them.
        self._shared = mine[0].platform == "cpu"
        self._times = len(mine) if self._shared else 1
        self._parts: dict[str, int] = {}

    def add_state(self, shapes: Any, shardings: Any) -> None:
        self._parts[_STATE] = self._times * _bytes(shapes, shardings)

    def add_data(self, stores: Sequence[Store], tasks: Sequence[str]) -> None:
        """Data that are kept in memory; they are made on the host and then put on the device."""
        self._parts[_DATA] = (self._times + self._shared) * sum(resident_bytes(store, tasks) for store in stores)

    def add_call(self, told: Any, payload: Any, ahead: int) -> None:
        """What a call needs beside: its payload, the next one and on the host those that are read ``ahead``, and
        temporaries by the compiler's ``memory_analysis``."""
        sizes = _bytes(payload, jax.tree.map(lambda x: x.sharding, payload))
        self._parts[_BATCHES] = (2 * self._times + self._shared * ahead) * sizes
        if told is not None:
            new = max(0, told.output_size_in_bytes - told.alias_size_in_bytes)
            self._parts[_TEMPORARIES] = self._times * (told.temp_size_in_bytes + new)

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {_told(size)}" for name, size in self._parts.items())
        return f"{_told(sum(self._parts.values()))} ({parts}) of {_told(self._free)} free"

    def require(self) -> None:
        """Raise SteerflowError, with what to type, if it is known by now that it will not fit."""
        needed = sum(self._parts.values())
        if needed > self._free:
            large = [name for name, size in self._parts.items() if size > needed / 4]
            raise SteerflowError(
                f"Training does not fit into the memory: it takes about {self}. What helps: "
                f"{'; '.join(_ADVICE[name] for name in large)}."
            )


def _bytes(tree: Any, shardings: Any) -> int:
    """On one device."""
    sizes = jax.tree.map(lambda x, s: math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize, tree, shardings)
    return sum(jax.tree.leaves(sizes))


def _told(size: int | float) -> str:
    for unit, one in (("GB", 1e9), ("MB", 1e6)):
        if size >= one:
            return f"{size / one:.3g} {unit}"
    return f"{size / 1e3:.3g} kB"
