"""The one loop: integrate the steered flow from noise to action chunks, refine, select.

    a_0 ~ noise        a_{k+1} = solver step of field(a, t) = v(s, a, t) + w(t) g(s, a, t, v)        a_1 -> refine -> select

It knows no network and no method: everything arrives as functions and values. Flow time t: 0 = noise, 1 = action.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from steerflow.steer.guidance import Nothing
from steerflow.steer.models import Models
from steerflow.steer.prefix import Prefix, with_prefix
from steerflow.steer.recipe import Recipe


class Sampled(NamedTuple):
    """The result, with its diagnostics; all per row of the batch and of the chosen candidate."""

    actions: Float[Array, "batch flat"]  # in [-1, 1]
    q: Float[Array, " batch"]  # the critic's value of the chosen chunk; NaN where no critic was given
    candidate: Float[Array, " batch"]  # index of the chosen candidate
    velocity_norm: Float[Array, " batch"]  # mean over steps of |v| at the steps' starts
    # What weight 1 would add: mean of |w(t) g| over the steps at whose starts g was asked, and what refining would add.
    gradient_norm: Float[Array, " batch"]
    clipped_fraction: Float[Array, " batch"]  # share of dimensions that the final clip moved
    path: Float[Array, "steps_1 batch flat"] | None  # a at every time, where asked for


def sample(
    keys: Key[Array, " batch"],
    observations: Float[Array, "batch obs"],
    models: Models,
    recipe: Recipe,
    *,
    flat: int,
    weight: Float[Array, " batch"] | Float[Array, ""] | float | None = None,
    prefix: Prefix | None = None,
    keep_path: bool = False,
) -> Sampled:
    """Sample one chunk for each row; a row depends on its own key, observation and weight only.

    keys: one for each row. flat: dimensions of a flattened chunk. weight: overrides ``recipe.weight``, a scalar or one for
    each row. prefix: what is already committed of each chunk. Pure and traceable: wrap it in ``jax.jit`` with ``models`` and
    ``recipe`` closed over.
    """
    candidates, models = recipe.candidates, models._replace(times=recipe.time_grid)
    row_keys = jax.vmap(lambda key: jax.random.split(key, candidates + 1))(keys)
    states = jnp.repeat(observations, candidates, axis=0)
    weights = recipe.weight if weight is None else weight
    if not callable(weights) and jnp.ndim(weights) == 1:
        weights = jnp.repeat(jnp.asarray(weights), candidates)

    if prefix is not None:
        each = prefix._replace(actions=jnp.repeat(prefix.actions, candidates, axis=0))
        models = models._replace(velocity=with_prefix(models.velocity, each))
    at = weights if callable(weights) else lambda t: weights
    by_row = lambda x: jnp.broadcast_to(x, states.shape[:1])  # noqa: E731

    a = recipe.noise(models, row_keys[:, 1:].reshape(-1), states, flat)

    def guided(a, t, last, due):
        """(v, g, w(t) at weight 1, field); where guidance does not act or is not due, it is not asked and g is the last one."""
        v = models.velocity(states, a, t)
        if isinstance(recipe.guidance, Nothing):
            return v, last, jnp.zeros_like(v[:, 0]), v
        asked = recipe.acts(t) if recipe.guide_every == 1 else due & recipe.acts(t)
        weight = by_row(at(t))
        ask = lambda: recipe.guidance(models._replace(weight=weight), states, a, t, v)  # noqa: E731
        g = ask() if asked is True else jax.lax.cond(asked, ask, lambda: last)
        unit = by_row(recipe.schedule(models, 1.0, t, v, g))
        return v, g, unit, v + (weight * unit)[:, None] * g

    def step(carry, now):
        a, g = carry
        t, dt, due = now
        norms = []

        def field(x, time):
            nonlocal g
            v, g, unit, total = guided(x, time, g, due)
            if not norms:
                norms.append((jnp.linalg.norm(v, axis=-1), unit * jnp.linalg.norm(g, axis=-1)))
            return total

        after = recipe.solver(field, a, t, dt)
        return (after, g), (norms[0], after if keep_path else None)

    grid = jnp.asarray(recipe.time_grid, a.dtype)
    start = a
    (a, _), (norms, visited) = jax.lax.scan(
        step, (a, jnp.zeros_like(a)), (grid[:-1], jnp.diff(grid), jnp.asarray(recipe.due))
    )
    asked = np.asarray([due and bool(recipe.acts(t)) for t, due in zip(recipe.time_grid, recipe.due, strict=False)])
    refined, moved = recipe.refine(models, states, a, by_row(at(jnp.ones((), a.dtype))))
    clipped = jnp.clip(refined, -1.0, 1.0)

    by_candidate = lambda x: x.reshape(-1, candidates, *x.shape[1:])  # noqa: E731
    q = models.q(states, clipped) if models.q is not None else jnp.full(a.shape[:1], jnp.nan, a.dtype)
    chosen = jax.vmap(recipe.select)(row_keys[:, 0], by_candidate(q))
    pick = lambda x: jnp.take_along_axis(by_candidate(x), chosen.reshape(-1, 1, *[1] * (x.ndim - 1)), axis=1)[:, 0]  # noqa: E731
    path = jax.vmap(pick)(jnp.concatenate([start[None], visited])) if visited is not None else None
    return Sampled(
        actions=pick(clipped),
        q=pick(q),
        candidate=chosen,
        velocity_norm=pick(norms[0].mean(axis=0)),
        gradient_norm=pick(norms[1][asked].sum(axis=0) / max(asked.sum(), 1) + moved),
        clipped_fraction=pick((clipped != refined).mean(axis=-1, dtype=a.dtype)),
        path=path,
    )
