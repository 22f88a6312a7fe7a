"""How an ensemble of critics becomes one Q: ``aggregate(q)`` for q (ensemble, batch) -> (batch,)."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp

from steerflow.steer.family import Family


@dataclass(frozen=True)
class Min:
    """``min_e Q_e``: QGF's choice."""

    def __call__(self, q):
        return jnp.min(q, axis=0)


@dataclass(frozen=True)
class Mean:
    """``mean_e Q_e``: no pessimism, and a gradient from every critic."""

    def __call__(self, q):
        return jnp.mean(q, axis=0)


@dataclass(frozen=True)
class First:
    """``Q_1``: one critic alone, for half the arithmetic of two and no pessimism."""

    def __call__(self, q):
        return q[0]


@dataclass(frozen=True)
class MeanMinusStd:
    """``mean_e Q_e - k std_e Q_e`` with the population's standard deviation: pessimism in proportion to disagreement."""

    k: float = 1.0

    def __call__(self, q):
        deviation = q - jnp.mean(q, axis=0)
        variance = jnp.mean(deviation**2, axis=0)
        # The root has no gradient at 0, where all critics agree.
        agree = variance <= 0
        return jnp.mean(q, axis=0) - self.k * jnp.where(agree, 0.0, jnp.sqrt(jnp.where(agree, 1.0, variance)))


AGGREGATES = Family("aggregate", {"min": Min, "mean": Mean, "first": First, "mean_minus_std": MeanMinusStd})
