"""The networks of the parts. Each keeps its layers in ``body``, from which acting takes them (steer/acting.py)."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from steerflow.learn.networks import MLP


class AmortisedGradient(eqx.Module):
    """In place of a critic's gradient: ``dQ/da (observation, a) ~ scale * body(observation, a)``.

    ``scale`` is the root mean square of the gradient over the data, so that ``body`` learns numbers of size 1 whatever the
    rewards' unit; it is measured, not trained.
    """

    body: MLP
    scale: Float[Array, ""]

    def __init__(
        self,
        key: Key[Array, ""],
        observation_dim: int,
        flat_dim: int,
        hidden: tuple[int, ...],
        scale: Float[Array, ""] | float = 1.0,
    ) -> None:
        self.body = MLP(key, observation_dim + flat_dim, hidden, flat_dim)
        self.scale = jnp.asarray(scale, jnp.float32)

    def normalised(
        self, observations: Float[Array, "batch observation"], a: Float[Array, "batch flat"]
    ) -> Float[Array, "batch flat"]:
        """The gradient in units of ``scale``."""
        return self.body(jnp.concatenate([observations, a], axis=-1))

    def __call__(
        self, observations: Float[Array, "batch observation"], a: Float[Array, "batch flat"]
    ) -> Float[Array, "batch flat"]:
        return self.scale * self.normalised(observations, a)
