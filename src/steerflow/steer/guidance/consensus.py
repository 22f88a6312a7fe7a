from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from steerflow.errors import MismatchError
from steerflow.steer.models import Models


@dataclass(frozen=True)
class Consensus:
    """QGF that steers less where critics disagree: ``g = c^power mean_e g_e`` with ``c = |mean_e g_e|^2 / mean_e |g_e|^2``.

    ``g_e`` is the gradient of critic e at the one-step estimate. The agreement ``c`` is 1 where all critics point the same way
    equally, 1 / E for E orthogonal gradients, and 0 where they cancel; it has no unit. The recipe's aggregate plays no role.
    """

    power: float = 1.0
    asks: ClassVar[tuple[str, ...]] = ("critic",)

    def __call__(self, models: Models, observations, a, t, v) -> Float[Array, "batch flat"]:
        ensemble = models.ensemble
        if ensemble is None:
            raise MismatchError("The guidance consensus compares critics: give q as (ensemble, batch), not one value.")
        q, pull = jax.vjp(lambda x: ensemble(observations, x), models.one_step_estimate(a, t, v))
        each = jax.vmap(lambda member: pull(jnp.broadcast_to(member[:, None], q.shape))[0])(
            jnp.eye(len(q), dtype=q.dtype)
        )
        mean, squares = jnp.mean(each, axis=0), jnp.mean(jnp.sum(each**2, axis=-1), axis=0)
        agreement = jnp.sum(mean**2, axis=-1) / jnp.where(squares > 0, squares, 1.0)
        return agreement[:, None] ** self.power * mean
