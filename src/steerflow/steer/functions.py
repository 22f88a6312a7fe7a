"""Steering a velocity field and a critic from anywhere, given as plain functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from steerflow.errors import MismatchError
from steerflow.steer.models import Models
from steerflow.steer.presets import recipe as recipe_of
from steerflow.steer.recipe import Recipe
from steerflow.steer.sample import Sampled, sample


def steer_functions(
    velocity: Callable[[Array, Array, Array], Array],
    q: Callable[[Array, Array], Array] | None,
    method: str | Recipe = "qgf",
    *,
    flat: int,
    parts: Mapping[str, Callable[..., Array]] = MappingProxyType({}),
    scales: Mapping[str, float] = MappingProxyType({}),
    **changes: Any,
) -> Callable[[Key[Array, ""], Float[Array, "batch obs"]], Sampled]:
    """Steer any velocity field with any critic, given as plain functions of jax arrays; no artefact needed.

    velocity(observations, a, t) -> (batch, flat) with t: 0 = noise, 1 = action; q(observations, a) -> (batch,), or
    (ensemble, batch), which the recipe's ``aggregate`` combines; parts: functions by kind for recipes that ask them, such as
    {"amortised": f} with f(observations, a) -> (batch, flat); scales: of the critic, for schedules that ask them
    (``steerflow.measure_scales(q, observations, a)``). Returns a compiled ``act(key, observations) -> Sampled``.
    """
    chosen = recipe_of(method, **changes)
    if "critic" in chosen.asks and q is None:
        raise MismatchError("This recipe asks a critic, but q is None.")
    chosen.parts_asked(parts)

    def ensemble(observations, a):
        return jnp.atleast_2d(q(observations, a))  # type: ignore[misc]

    def combined(observations, a):
        return chosen.aggregate(ensemble(observations, a))

    models = Models(velocity, None, parts, scales=scales)
    if q is not None:
        models = models._replace(q=combined, ensemble=ensemble)

    @jax.jit
    def act(key, observations):
        return sample(jax.random.split(key, observations.shape[0]), observations, models, chosen, flat=flat)

    return act
