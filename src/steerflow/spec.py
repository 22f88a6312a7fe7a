"""What a policy, a critic and a data set must agree on: the spaces, the chunk length and the units."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from steerflow.errors import DataError, MismatchError

# Data actions are kept this far inside the bounds, as in QGF's and FQL's code.
ACTION_MARGIN = 1e-5


@dataclass(frozen=True)
class Spec:
    """The observation and action spaces of an artefact.

    ``chunk`` actions are decided at once and executed one after the other (open loop). ``action_low`` and
    ``action_high`` are the bounds of one action in the environment's units; networks see actions scaled to [-1, 1].
    """

    observation_dim: int
    action_dim: int
    chunk: int
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    # What the networks are conditioned on, in order; later: goals, encoder features.
    condition: tuple[str, ...] = ("observation",)

    def __post_init__(self) -> None:
        low, high = np.asarray(self.action_low), np.asarray(self.action_high)
        if low.shape != (self.action_dim,) or high.shape != (self.action_dim,):
            raise MismatchError(
                f"The action bounds have shapes {low.shape} and {high.shape}, but an action has {self.action_dim} dimensions."
            )
        if not (np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all()):
            raise DataError(
                "Action bounds must be finite with low < high in every dimension; give action_low and action_high."
            )
        if self.chunk < 1:
            raise DataError(f"chunk must be at least 1, not {self.chunk}.")

    @property
    def flat_dim(self) -> int:
        """Dimensions of a flattened chunk: chunk * action_dim."""
        return self.chunk * self.action_dim

    def scale_actions(self, actions: Float[np.ndarray, "... action"]) -> Float[np.ndarray, "... action"]:
        """From the environment's units to [-1, 1], clipped to just inside the bounds."""
        low, high = np.asarray(self.action_low, np.float32), np.asarray(self.action_high, np.float32)
        scaled = (np.asarray(actions, np.float32) - low) / (high - low) * np.float32(2) - np.float32(1)
        return np.clip(scaled, -1 + ACTION_MARGIN, 1 - ACTION_MARGIN).astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> Spec:
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        return Spec(**fields)

    def require_same(self, other: Spec, this_name: str, other_name: str) -> None:
        """Raises MismatchError that names every field in which two specs differ."""
        fields = ("observation_dim", "action_dim", "chunk", "action_low", "action_high", "condition")
        differing = [f for f in fields if getattr(self, f) != getattr(other, f)]
        if differing:
            detail = "; ".join(f"{f}: {getattr(self, f)} against {getattr(other, f)}" for f in differing)
            raise MismatchError(
                f"The {this_name} and the {other_name} do not fit together ({detail}). "
                "Both must be trained on the same spaces and with the same --chunk."
            )


@dataclass(frozen=True)
class Normaliser:
    """Shift and scale of observations: ``(observation - mean) / std``. The identity where mean is 0 and std is 1."""

    mean: Float[np.ndarray, " observation"]
    std: Float[np.ndarray, " observation"]

    @staticmethod
    def identity(observation_dim: int) -> Normaliser:
        return Normaliser(np.zeros(observation_dim, np.float32), np.ones(observation_dim, np.float32))

    @staticmethod
    def fit(observations: np.ndarray, floor: float = 1e-3, max_rows: int = 1_000_000) -> Normaliser:
        """Mean and standard deviation over the rows, or over evenly spread runs of them where there are more than
        ``max_rows``; ``floor`` keeps constant dimensions finite."""
        rows = observations
        if len(rows) > max_rows:
            # Runs, as reading single rows all over a mapped column would read all of it.
            run = 1000
            starts = np.linspace(0, len(rows) - run, max(1, max_rows // run)).astype(np.int64)
            rows = np.concatenate([rows[start : start + run] for start in starts])
        mean = np.mean(rows, axis=0, dtype=np.float64)
        std = np.maximum(np.std(rows, axis=0, dtype=np.float64), floor)
        return Normaliser(np.asarray(mean, np.float32), np.asarray(std, np.float32))

    def __call__(self, observations):
        """Works on numpy and on jax arrays of shape (..., observation)."""
        return (observations - self.mean) / self.std
