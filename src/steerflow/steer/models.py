"""What the sampling loop knows of a policy and a critic: functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from steerflow.errors import MismatchError

VelocityFn = Callable[[Array, Array, Array], Array]
QFn = Callable[[Array, Array], Array]


class Models(NamedTuple):
    """``velocity(observations, a, t)`` -> (batch, flat) and ``q(observations, a)`` -> (batch,), rows independent.

    Chunks ``a`` (batch, flat) are scaled to [-1, 1] and flattened; flow time t is a scalar, 0 = noise, 1 = action.
    ``q`` may be None where a recipe asks no critic. ``parts`` are functions by kind, those that the recipe asks; what each
    takes beside observations is said where its network is (learn/part_networks.py).

    ``ensemble(observations, a)`` -> (ensemble, batch) are the critics one by one. ``scales`` are numbers measured when the
    policy and the critic were trained. The sampling loop sets ``times``, the flow times at which the solver stands, and
    ``weight``, the recipe's before its schedule, (batch,).
    """

    velocity: VelocityFn
    q: QFn | None
    parts: Mapping[str, Callable[..., Array]] = MappingProxyType({})
    ensemble: QFn | None = None
    scales: Mapping[str, float] = MappingProxyType({})
    times: tuple[float, ...] = tuple(k / 10 for k in range(11))
    weight: Array | float = 1.0

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

    def endpoint(
        self, observations: Float[Array, "batch obs"], a: Float[Array, "batch flat"], t: Float[Array, ""]
    ) -> Float[Array, "batch flat"]:
        """Where the velocity alone leads from (a, t), in Euler steps over what is left of ``times``; not clipped."""
        grid = jnp.asarray(self.times, a.dtype)

        def step(x, ends):
            start, stop = jnp.maximum(ends[0], t), jnp.maximum(ends[1], t)
            # Steps that lie behind t cost nothing.
            forward = lambda: x + (stop - start) * self.velocity(observations, x, start)  # noqa: E731
            return jax.lax.cond(stop > start, forward, lambda: x), None

        return jax.lax.scan(step, a, (grid[:-1], grid[1:]))[0]

    def scale(self, name: str) -> float:
        """One of ``scales``; raises where the policy or the critic has none."""
        if name not in self.scales:
            kind = "policy" if name == "deviation" else "critic"
            raise MismatchError(
                f"This schedule needs the {kind}'s {name}, which is measured when a {kind} is trained. Train it again with this "
                f"version: steerflow train {kind} --help. With plain functions: steer_functions(..., "
                "scales=steerflow.measure_scales(q, observations, actions, velocity=velocity))."
            )
        return self.scales[name]
