"""What the generators share: a world to collect in, seeds per episode, silence from libraries."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np

from steerflow.data.generate.settings import Manipulation, Settings
from steerflow.errors import SteerflowError

SPLITS = ("train", "val")
Columns = dict[str, np.ndarray]
# Bytes of a row's values, by column.
Widths = dict[str, int]
# A scene that goes wrong this often in a row is not bad luck.
_ATTEMPTS = 100


class GenerationError(SteerflowError):
    """Data that could not be made."""


class World(Protocol):
    """An environment with an expert. ``episode`` returns None for an episode that must be repeated with other numbers."""

    action_low: np.ndarray
    action_high: np.ndarray

    @property
    def widths(self) -> Widths: ...

    def episode(self, rng: np.random.Generator) -> Columns | None: ...


def open_world(settings: Settings) -> World:
    if isinstance(settings, Manipulation):
        from steerflow.data.generate.manipspace import Arm

        return Arm(settings)
    from steerflow.data.generate.pointmaze import Point

    return Point(settings)


def collect(world: World, name: str, seed: int, split: str, index: int) -> Columns:
    """Episode ``index`` of a split: the same for the same (name, seed, split, index), whatever was collected before."""
    label = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    for attempt in range(_ATTEMPTS):
        rng = np.random.default_rng([label, seed, SPLITS.index(split), index, attempt])
        columns = world.episode(rng)
        if columns is not None:
            return columns
    raise GenerationError(f"Episode {index} of {name} ({split}) went wrong {_ATTEMPTS} times. See: steerflow doctor")


def widths_of(columns: Columns) -> Widths:
    return {name: column[0].nbytes for name, column in columns.items()}


@contextmanager
def quiet() -> Iterator[None]:
    """Hide what importing and building environments warns about: no display for GLFW, float64 bounds of float32 boxes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
