"""What the sampling loop knows of a policy and a critic: functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

VelocityFn = Callable[[Array, Array, Array], Array]
QFn = Callable[[Array, Array], Array]


class Models(NamedTuple):
    """``velocity(observations, a, t)`` -> (batch, flat) and ``q(observations, a)`` -> (batch,), rows independent.

    Chunks ``a`` (batch, flat) are scaled to [-1, 1] and flattened; flow time t is a scalar, 0 = noise, 1 = action.
    ``q`` may be None where a recipe asks no critic. ``parts`` are functions by kind, those that the recipe asks; what each
    takes beside observations is said where its network is (learn/part_networks.py).
    """

    velocity: VelocityFn
    q: QFn | None
    parts: Mapping[str, Callable[..., Array]] = MappingProxyType({})

    def q_gradient(
        self, observations: Float[Array, "batch obs"], a: Float[Array, "batch flat"]
    ) -> Float[Array, "batch flat"]:
        """The gradient of q with respect to ``a``, row by row."""
        if self.q is None:
            raise ValueError("This recipe needs a critic.")
        q = self.q
        return jax.grad(lambda x: jnp.sum(q(observations, x)))(a)

    def one_step_estimate(
        self, a: Float[Array, "batch flat"], t: Float[Array, ""], v: Float[Array, "batch flat"]
    ) -> Float[Array, "batch flat"]:
        """The action that one Euler step to t = 1 would give: ``clip(a + (1 - t) v, -1, 1)``."""
        return jnp.clip(a + (1 - t) * v, -1.0, 1.0)
