"""Which action bounds a data set gets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from steerflow.errors import DataError

Bound = float | Sequence[float] | None


def action_bounds(
    smallest: np.ndarray,
    largest: np.ndarray,
    *,
    low: Bound = None,
    high: Bound = None,
    space: tuple[np.ndarray, np.ndarray] | None = None,
    unit: bool = False,
) -> tuple[np.ndarray, np.ndarray, str]:
    """(low, high, where they come from) for data between ``smallest`` and ``largest``, each (action_dim,).

    In this order: "given" (both, each a number or one per dimension); "space" (what the source says); "unit", [-1, 1], for
    OGBench data (``unit``) that lie in it and for any data that fill it to the edge in some dimension; "observed": the data's
    range per dimension, widened by 1 % of it at both ends. A constant dimension gets a small range around its value.
    """
    dims = len(smallest)
    if low is not None or high is not None:
        if low is None or high is None:
            raise DataError("Give both --action-low and --action-high, or neither.")
        return _given(low, dims, "--action-low"), _given(high, dims, "--action-high"), "given"
    if space is not None:
        return space[0], space[1], "space"
    inside = bool((smallest >= -1 - 1e-5).all() and (largest <= 1 + 1e-5).all())
    filled = bool(((smallest <= -1 + 1e-5) & (largest >= 1 - 1e-5)).any())
    if inside and (unit or filled):
        return -np.ones(dims), np.ones(dims), "unit"
    scale = np.maximum(np.maximum(np.abs(smallest), np.abs(largest)), 1.0)
    constant = largest - smallest < 1e-6 * scale
    margin = np.where(constant, 1e-3 * scale, 0.01 * (largest - smallest))
    return smallest - margin, largest + margin, "observed"


def _given(bound: float | Sequence[float], dims: int, name: str) -> np.ndarray:
    values = np.asarray(bound, np.float64).reshape(-1)
    if len(values) not in (1, dims):
        raise DataError(f"{name} has {len(values)} values, an action has {dims} dimensions; give one value or {dims}.")
    return np.broadcast_to(values, (dims,)).copy()
