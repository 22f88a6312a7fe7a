"""How far an action is from the data: the nearest neighbour among recorded (state, action) pairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

# Queries that are compared with all pairs at once; bounds the memory at this many times the number of pairs.
_BLOCK = 64


@dataclass(frozen=True)
class Neighbours:
    """Recorded pairs of states (pairs, observation) and flattened chunks (pairs, flat) scaled to [-1, 1].

    A distance is Euclidean after each dimension is divided by its standard deviation over the pairs, and states and
    chunks each by the square root of their number of dimensions, so that both count alike.
    """

    points: Float[np.ndarray, "pairs dim"]
    scale: Float[np.ndarray, " dim"]

    @staticmethod
    def of(observations: np.ndarray, chunks: np.ndarray) -> Neighbours:
        columns = [np.asarray(x, np.float64) for x in (observations, chunks)]
        # What never changes in the data has no spread to measure by; it counts in its own units.
        spreads = [np.where((std := x.std(axis=0)) > 1e-6, std, 1.0) * np.sqrt(x.shape[1]) for x in columns]
        scale = np.concatenate(spreads)
        return Neighbours(np.concatenate(columns, axis=1) / scale, scale)

    def nearest(self, observations: np.ndarray, chunks: np.ndarray) -> Float[np.ndarray, " batch"]:
        """The distance of each (state, chunk) to its nearest recorded pair."""
        queries = np.concatenate([observations, chunks], axis=1, dtype=np.float64) / self.scale
        found = []
        for first in range(0, len(queries), _BLOCK):
            block = queries[first : first + _BLOCK]
            square = (block**2).sum(axis=1)[:, None] - 2 * block @ self.points.T + (self.points**2).sum(axis=1)
            # The expanded square loses digits near 0: the nearest pair's distance is taken anew.
            found.append(np.linalg.norm(block - self.points[square.argmin(axis=1)], axis=1))
        return np.concatenate(found)
